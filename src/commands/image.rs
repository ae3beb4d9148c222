//! `ft image`: images as archives, in an engine, in the lock. Verified first, used after.

mod bundle;
mod environment;

use super::context::Context;
use super::failure::{Failure, done};
use super::{contained, lock, pull, survey};
use crate::cli::{Image as Command, ImageBuild};
use crate::code::ExitCode;
use crate::engine::{Engine, Where};
use crate::finding::Finding;
use crate::image::archive::{self, ArchiveError, Base, LayerFile, Members, config_of};
use crate::image::bundle::Bundle;
use crate::image::identity::{self, Seen};
use crate::image::store::{self, ImageError, Progress, Ready};
use crate::leftovers;
use crate::lock::image::{ImageName, Platform, Reference, goarch};
use crate::lock::{Image, LOCK_PATH, Lock, pin as pinning};
use crate::repo::{Repo, Source};
use crate::tar_writer::EARLIEST;
use crate::ui::{self, Transfers};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tempfile::TempDir;

/// What a process of an image without another one finds its programs by.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn image(context: &Context, command: &Command) -> ExitCode {
    match command {
        Command::Build(args) => done(build(context, args)),
        Command::Verify { what, python } => done(verify(context, what.as_deref(), python.as_deref())),
        Command::Save { bundle: Some(bundle), .. } => done(bundle::save(context, bundle)),
        Command::Save { name, output, .. } => done(save(context, name.as_deref(), output.as_deref())),
        Command::Load { file, name, only } => done(load(context, file, name.as_deref(), only.as_deref())),
        Command::Pin { name, python } => pin(context, name, python.as_deref()),
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        Failure::new(error.exit(), &error, error.hint())
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Failure {
        ImageError::from(error).into()
    }
}

/// An engine, and a runtime in which it is spoken to.
struct Spoken {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
}

impl Spoken {
    fn new(context: &Context) -> Result<Spoken, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(ExitCode::INFRASTRUCTURE, error, "run it again"))?;
        let places = Where::from_variables(|name| context.vars.text(name));
        let engine = runtime.block_on(Engine::connect(&places)).map_err(ImageError::from)?;
        Ok(Spoken { runtime, engine })
    }

    fn inspect(&self, name: &str) -> Result<Option<Seen>, Failure> {
        Ok(self.runtime.block_on(store::inspect(&self.engine, name))?)
    }

    fn load(&self, context: &Context, ready: &Ready) -> Result<Seen, Failure> {
        let mut lines = Transfers::new(&context.style);
        let mut report = |progress: Progress<'_>| pull::show(&mut lines, &progress);
        Ok(self.runtime.block_on(store::load(&self.engine, ready, &mut report))?)
    }

    /// Takes an image out of the engine, verifies it, and leaves its layers in `folder`.
    fn export(&self, context: &Context, name: &str, folder: &Path) -> Result<archive::Unpacked, Failure> {
        let file = folder.join("export.tar");
        {
            let mut lines = Transfers::new(&context.style);
            let mut report = |progress: Progress<'_>| pull::show(&mut lines, &progress);
            self.runtime.block_on(store::export(&self.engine, name, &file, &mut report))?;
        }
        // An engine gives out one image, under whatever name.
        let unpacked = store::take(&file, None, None, folder)?;
        std::fs::remove_file(&file).map_err(|source| ArchiveError::Io { path: file, source })?;
        Ok(unpacked)
    }

    fn pull(&self, context: &Context, name: &Reference) -> Result<Seen, Failure> {
        if context.global.offline {
            let what = format!("offline, and {} has no image {name}", self.engine.facts().name());
            return Err(Failure::new(
                ExitCode::INFRASTRUCTURE,
                what,
                "`ft image load FILE`, or run without `--offline`",
            ));
        }
        Ok(self.runtime.block_on(pull::pull(context, &self.engine, name))?)
    }
}

/// What is meant on the command line: whatever is a file is one, and so is a directory that says it is an archive.
fn file(context: &Context, what: &str) -> Option<PathBuf> {
    Some(context.cwd.join(what)).filter(|path| path.is_file() || is_archive(path))
}

/// A directory with an archive's table of contents in it, which no root file system has: an OCI layout's (OCI image layout
/// specification) or a docker-archive's.
fn is_archive(path: &Path) -> bool {
    ["oci-layout", "manifest.json"].iter().any(|name| path.join(name).is_file())
}

fn named(text: &str) -> Result<ImageName, Failure> {
    let hint = "a file of this name is not there, and images are called `[registry/]name[:tag][@sha256:...]`";
    text.parse().map_err(|error| Failure::usage(format!("{text:?} names no image: {error}"), hint))
}

fn reference(text: &str) -> Result<Reference, Failure> {
    let wrong =
        |error: String| Failure::usage(format!("{text:?} can't be the name of an image: {error}"), "write `name:tag`");
    match Reference::from_str(text) {
        Ok(reference) if reference.digest.is_some() => Err(wrong("the digest follows from the content".to_owned())),
        Ok(reference) => Ok(reference),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A folder of ours for what is large: beside the repository's own state, else in the cache, else here.
fn folder(context: &Context) -> Result<TempDir, Failure> {
    let state = crate::facts::git::discover(&context.cwd).ok().map(|repo| repo.state_dir()).filter(|dir| dir.is_dir());
    let cache = context.vars.cache_dir.clone().filter(|dir| std::fs::create_dir_all(dir).is_ok());
    let place = state.or(cache).unwrap_or_else(|| context.cwd.clone());
    leftovers::sweep(&place);
    leftovers::folder_in(&place).map_err(|source| ArchiveError::Io { path: place, source }.into())
}

fn build(context: &Context, args: &ImageBuild) -> Result<(), Failure> {
    let name = args.name.as_deref().map(reference).transpose()?;
    let wrong = |text: &str| Failure::usage(format!("{text:?} is no platform"), "write one such as linux/amd64");
    let platform =
        args.platform.as_deref().map(|text| text.parse::<Platform>().map_err(|()| wrong(text))).transpose()?;
    let folder = folder(context)?;
    let directory = context.cwd.join(&args.base);
    let ready = if args.base == "scratch" || (directory.is_dir() && !is_archive(&directory)) {
        if args.with_environment {
            let message = "an environment is made for the Python of an image, and this is none yet";
            let hint =
                "build and load the image, pin it (`ft lock --image`), then build from it with `--with-environment`";
            return Err(Failure::usage(message, hint));
        }
        new(context, args, platform.unwrap_or_else(this_machine), folder.path())?
    } else {
        if !args.env.is_empty() {
            return Err(Failure::usage("an image that is taken over keeps its variables", "leave out `--env`"));
        }
        let unpacked = taken_over(context, &args.base, platform.as_ref(), folder.path())?;
        if let Some(platform) = platform.filter(|platform| !platform.takes(&unpacked.image.platform)) {
            let what = format!("{} is for {}, and {platform} is asked for", args.base, unpacked.image.platform);
            return Err(Failure::new(
                crate::code::ParityCode::IMAGE_IDENTITY.exit(),
                what,
                "take the image of that platform",
            ));
        }
        if args.with_environment {
            let epoch = epoch(context, args)?;
            let layer = environment::layer(context, &args.base, &unpacked.image, epoch, folder.path())?;
            let diff_ids: Vec<_> = unpacked.image.diff_ids.iter().copied().chain([layer.diff_id]).collect();
            let config = config_of(&Base::Image(unpacked.image.config.clone()), &diff_ids, epoch);
            // Another image: the name of its base is not its own.
            let layers = unpacked.layers.into_iter().chain([layer]).collect();
            Ready { config, layers, name: None, platform: unpacked.image.platform }
        } else {
            Ready::of(unpacked, None)
        }
    };
    let ready = Ready { name: name.or(ready.name), ..ready };
    let ids = write(context, &ready, &args.output)?;
    if args.load {
        let spoken = Spoken::new(context)?;
        spoken.load(context, &ready)?;
        ui::note(&format!("loaded into {}", spoken.engine.facts().name()));
    }
    ui::out(&format!("{}\n", ids.config));
    Ok(())
}

/// The latest time in an image.
fn epoch(context: &Context, args: &ImageBuild) -> Result<u64, Failure> {
    match (args.epoch, context.vars.text("SOURCE_DATE_EPOCH")) {
        (Some(epoch), _) => Ok(epoch),
        (None, Some(text)) => text.trim().parse().map_err(|_| {
            let hint = "seconds since 1970, as `git log -1 --format=%ct` prints them";
            Failure::usage(format!("SOURCE_DATE_EPOCH is {text:?}"), hint)
        }),
        (None, None) => Ok(EARLIEST),
    }
}

/// An image on nothing: a root file system, or not even that.
fn new(context: &Context, args: &ImageBuild, platform: Platform, folder: &Path) -> Result<Ready, Failure> {
    let epoch = epoch(context, args)?;
    if let Some(wrong) = args.env.iter().find(|entry| entry.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
        return Err(Failure::usage(format!("{wrong:?} is no variable"), "write NAME=VALUE"));
    }
    let into = folder.join("layer");
    let mut env = Vec::new();
    let layer: LayerFile = if args.base == "scratch" {
        archive::empty_layer(&into)?
    } else {
        if !args.env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push(PATH.to_owned());
        }
        archive::layer(&context.cwd.join(&args.base), "", epoch, &into)?
    };
    env.extend(args.env.iter().cloned());
    let config = config_of(&Base::New { platform: platform.clone(), env }, &[layer.diff_id], epoch);
    Ok(Ready { config, layers: vec![layer], name: None, platform })
}

/// An image that is there already: in a file, in the engine, or in a registry under its digest.
fn taken_over(
    context: &Context,
    base: &str,
    platform: Option<&Platform>,
    folder: &Path,
) -> Result<archive::Unpacked, Failure> {
    if let Some(file) = file(context, base) {
        return Ok(store::take(&file, None, platform, folder)?);
    }
    let name = named(base)?;
    let spoken = Spoken::new(context)?;
    match (spoken.inspect(base)?, &name) {
        (Some(_), _) => {}
        (None, ImageName::Named(reference)) if reference.digest.is_some() => drop(spoken.pull(context, reference)?),
        (None, _) => {
            let error = ImageError::Absent { name: base.to_owned(), engine: spoken.engine.facts().name() };
            return Err(error.into());
        }
    }
    spoken.export(context, base, folder)
}

/// What images for this machine say.
fn this_machine() -> Platform {
    Platform::new("linux", goarch(std::env::consts::ARCH), None)
}

/// Writes the archive, whole or not at all.
fn write(context: &Context, ready: &Ready, output: &Path) -> Result<archive::Ids, Failure> {
    let output = context.cwd.join(output);
    let folder = output.parent().unwrap_or(&context.cwd).to_path_buf();
    let failed = |source| ArchiveError::Io { path: output.clone(), source };
    leftovers::sweep(&folder);
    let mut file = leftovers::file_in(&folder).map_err(failed)?;
    let ids = archive::write(&ready.contents(), file.as_file_mut())?;
    // As any program leaves a file; a temporary one is its owner's alone.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(&output).map_err(|error| failed(error.error))?;
    ui::note(&format!("{} written", output.display()));
    Ok(ids)
}

fn read_lock(context: &Context) -> Result<(Repo, Lock), Failure> {
    let repo = crate::facts::git::discover(&context.cwd)
        .map_err(|error| Failure::usage(&error, error.hint().unwrap_or_default()))?;
    let lock = survey::read_lock(&repo, &Source::Worktree)?;
    Ok((repo, lock))
}

/// The image of one Python of the lock.
fn image_of(lock: &Lock, python: &str) -> Result<Image, Failure> {
    lock.image(python).ok_or_else(|| {
        let what = format!("the lock names no container image for Python {python}");
        Finding::new(crate::code::ParityCode::IMAGE_NOT_PINNED, "preflight", what)
            .hint("pin one with `ft lock --image NAME`")
            .into()
    })
}

fn verify(context: &Context, what: Option<&str>, python: Option<&str>) -> Result<(), Failure> {
    let (_, lock) = read_lock(context)?;
    let Some(what) = what else { return verify_all(context, &lock) };
    let image = image_of(&lock, python.unwrap_or(&lock.python))?;
    let seen = match file(context, what) {
        Some(path) => {
            identity::pinned(&image)?;
            let archive = archive::Archive::open(&path, archive::Limits::default())?;
            let found = archive.choose(None, None).or_else(|error| {
                // Several: the one that the lock means, if it is there.
                let wanted = image.config_digest.as_deref().unwrap_or(&image.image).parse::<ImageName>();
                wanted.ok().and_then(|name| archive.choose(Some(&name), None).ok()).ok_or(error)
            })?;
            archive.unpack(found, None)?;
            store::seen(found)
        }
        None => {
            named(what)?;
            let spoken = Spoken::new(context)?;
            let absent = || ImageError::Absent { name: what.to_owned(), engine: spoken.engine.facts().name() };
            spoken.inspect(what)?.ok_or_else(absent)?
        }
    };
    let proof = identity::check(&image, &seen, what)?;
    ui::out(&format!("{what} is the image of the lock ({})\n", proof.name()));
    Ok(())
}

/// Every image of the lock, in the engine.
fn verify_all(context: &Context, lock: &Lock) -> Result<(), Failure> {
    let mut images = vec![(&lock.python, image_of(lock, &lock.python)?)];
    images.extend(lock.matrix.iter().skip(1).filter_map(|python| Some((python, lock.image(python)?))));
    for (_, image) in &images {
        identity::pinned(image)?;
    }
    let spoken = Spoken::new(context)?;
    for (python, image) in images {
        let found = spoken.runtime.block_on(store::find(&spoken.engine, &image))?;
        let absent = || ImageError::Absent { name: image.image.clone(), engine: spoken.engine.facts().name() };
        let (_, proof) = found.ok_or_else(absent)?;
        ui::out(&format!("Python {python}: {} is the image of the lock ({})\n", image.image, proof.name()));
    }
    Ok(())
}

fn save(context: &Context, name: Option<&str>, output: Option<&Path>) -> Result<(), Failure> {
    let Some(output) = output else { return Err(Failure::usage("nowhere to write to", "give `--output FILE`")) };
    let locked = match name {
        Some(name) => {
            named(name)?;
            None
        }
        None => {
            let (_, lock) = read_lock(context)?;
            let image = image_of(&lock, &lock.python)?;
            identity::pinned(&image)?;
            Some(image)
        }
    };
    let folder = folder(context)?;
    let spoken = Spoken::new(context)?;
    let name = match (&locked, name) {
        (Some(image), _) => {
            let absent = || ImageError::Absent { name: image.image.clone(), engine: spoken.engine.facts().name() };
            spoken.runtime.block_on(store::find(&spoken.engine, image))?.ok_or_else(absent)?.0
        }
        (None, name) => name.unwrap_or_default().to_owned(),
    };
    let unpacked = spoken.export(context, &name, folder.path())?;
    if let Some(image) = &locked {
        identity::check(image, &store::seen(&unpacked.image), &name)?;
    }
    let ids = write(context, &Ready::of(unpacked, None), output)?;
    ui::out(&format!("{}\n", ids.config));
    Ok(())
}

fn load(context: &Context, path: &Path, name: Option<&str>, only: Option<&str>) -> Result<(), Failure> {
    let name = name.map(reference).transpose()?;
    let only = only.map(named).transpose()?;
    let path = context.cwd.join(path);
    if path.is_dir() && !is_archive(&path) {
        let what = format!("{}: a directory that is no archive of an image", path.display());
        return Err(Failure::usage(
            what,
            "an OCI layout has a file `oci-layout` in it, a docker-archive `manifest.json`",
        ));
    }
    let members = Members::open(&path, &archive::Limits::default())?;
    if let Some(bundle) = Bundle::of(members)? {
        if name.is_some() || only.is_some() {
            return Err(Failure::usage("a bundle is loaded whole", "leave out `--as` and `--only`"));
        }
        return bundle::load(context, &bundle);
    }
    let folder = folder(context)?;
    let unpacked = store::take(&path, only.as_ref(), None, folder.path())?;
    let spoken = Spoken::new(context)?;
    let facts = spoken.engine.facts();
    if (facts.os.as_str(), facts.arch.as_str())
        != (unpacked.image.platform.os.as_str(), unpacked.image.platform.architecture.as_str())
    {
        ui::warning(
            &format!("the image is for {}, and the engine for {}/{}", unpacked.image.platform, facts.os, facts.arch),
            Some("it is loaded, and nothing runs in it here: walls can't be raised under emulation"),
        );
    }
    let seen = spoken.load(context, &Ready::of(unpacked, name))?;
    ui::note(&format!("loaded into {}", spoken.engine.facts().name()));
    ui::out(&format!("{}\n", seen.id));
    Ok(())
}

/// Writes what identifies an image of the engine into the lock. Also `ft lock --image`.
pub(super) fn pin(context: &Context, name: &str, python: Option<&str>) -> ExitCode {
    done(pinned(context, name, python))
}

fn pinned(context: &Context, name: &str, python: Option<&str>) -> Result<(), Failure> {
    let (repo, lock) = read_lock(context)?;
    let python = python.unwrap_or(&lock.python).to_owned();
    let asked = named(name)?;
    let spoken = Spoken::new(context)?;
    let absent = || ImageError::Absent { name: name.to_owned(), engine: spoken.engine.facts().name() };
    let seen = spoken.inspect(name)?.ok_or_else(absent)?;
    // A store that shows manifests keeps the configuration to itself: it stands in what the engine gives out.
    let config = if seen.by_manifest {
        let folder = folder(context)?;
        spoken.export(context, name, folder.path())?.image.config_digest
    } else {
        seen.id
    };
    let from_registry = seen.repo_digests.iter().find(|known| match &asked {
        ImageName::Id(_) => true,
        ImageName::Named(asked) => known.repository() == asked.repository(),
    });
    let image = Image {
        image: from_registry.map_or_else(|| config.to_string(), ToString::to_string),
        config_digest: Some(config.to_string()),
        diff_ids: seen.diff_ids.iter().map(ToString::to_string).collect(),
        platform: Some(seen.platform.to_string()),
        contents: None,
    };
    let path = repo.root.join(LOCK_PATH);
    let text = std::fs::read_to_string(&path).map_err(|source| ArchiveError::Io { path, source })?;
    let pin = |image: &Image| {
        pinning::pin(&text, &lock, &python, image)
            .map_err(|error| Failure::new(crate::code::ParityCode::LOCK_INVALID.exit(), &error, error.hint()))
    };
    let mut new = pin(&image)?;
    // Measured in the image as the lock is going to know it. What a cell needs is kept in the repository.
    crate::artifacts::exclude_from_status(&repo)
        .map_err(|error| Failure::new(ExitCode::INFRASTRUCTURE, error, "check that `.git/info` can be written to"))?;
    let with_image = Lock::parse(new.as_bytes()).map_err(|error| Failure::from(error.finding()))?.0;
    let work = folder(context)?;
    ui::note(&format!("measuring what it gives to Python {python}"));
    let measuring = contained::measure(context, &repo, &with_image, &python, work.path());
    match spoken.runtime.block_on(measuring) {
        Ok(contents) => new = pin(&Image { contents: Some(contents), ..image.clone() })?,
        Err(why) => {
            let kept = with_image.image(&python).is_some_and(|image| image.contents.is_some());
            let then = match kept {
                true => "the layers are those of before, and what was measured then stays in the lock",
                false => "steps in containers do not need it; `ft ci` can't tell that it runs in this image",
            };
            ui::warning(&format!("what the image gives to Python was not measured: {why}"), Some(then));
        }
    }
    lock::write(&repo, Path::new(LOCK_PATH), &new)
        .map_err(|error| Failure::new(ExitCode::INFRASTRUCTURE, error, "check that the lock can be written to"))?;
    ui::note(&format!("Python {python} runs in {} ({})", image.image, seen.platform));
    Ok(())
}
