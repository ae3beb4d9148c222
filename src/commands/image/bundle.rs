//! `ft image save --bundle` and the load of one: all that a machine without network needs for the lock.

use super::{Failure, Spoken, folder, image_of, read_lock};
use crate::code::{ExitCode, ParityCode};
use crate::commands::context::Context;
use crate::commands::env;
use crate::commands::survey::{self, Asked};
use crate::environment::PathError;
use crate::environment::fetch::Chosen;
use crate::environment::held::Choice;
use crate::finding::Finding;
use crate::image::archive::{self, ArchiveError};
use crate::image::bundle::{self, Bundle, Source as Member};
use crate::image::identity;
use crate::image::store::{self, ImageError, Ready};
use crate::leftovers;
use crate::lock::{Image, Lock};
use crate::repo::{Repo, Source};
use crate::ui;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

impl From<PathError> for Failure {
    fn from(error: PathError) -> Failure {
        let hint = if error.disk_full() {
            "the disk is full: `ft gc` frees what ft keeps"
        } else {
            "check that path and its permissions"
        };
        Failure::new(ExitCode::INFRASTRUCTURE, error, hint)
    }
}

/// The image of each Python of the lock that has one; the lock's own is a must.
fn images(lock: &Lock) -> Result<Vec<(String, Image)>, Failure> {
    let mut images = vec![(lock.python.clone(), image_of(lock, &lock.python)?)];
    for python in lock.matrix.iter().skip(1) {
        match lock.image(python) {
            Some(image) => images.push((python.clone(), image)),
            None => ui::note(&format!("the lock names no image for Python {python}; the bundle has none")),
        }
    }
    for (_, image) in &images {
        identity::pinned(image)?;
    }
    Ok(images)
}

pub(super) fn save(context: &Context, output: &Path) -> Result<(), Failure> {
    let (repo, lock) = read_lock(context)?;
    let images = images(&lock)?;
    let locked = survey::locked_hashes(&repo, &lock)?;
    let mut members = BTreeMap::new();
    wheels(context, &repo, &lock, &locked, &mut members)?;
    let wheels = members.len();
    let folder = folder(context)?;
    let spoken = Spoken::new(context)?;
    for (python, image) in &images {
        let found = spoken.runtime.block_on(store::find(&spoken.engine, image))?;
        let absent = || ImageError::Absent { name: image.image.clone(), engine: spoken.engine.facts().name() };
        let (id, _) = found.ok_or_else(absent)?;
        let place = folder.path().join(python);
        std::fs::create_dir(&place).map_err(|source| ArchiveError::Io { path: place.clone(), source })?;
        let unpacked = spoken.export(context, &id, &place)?;
        identity::check(image, &store::seen(&unpacked.image), &image.image)?;
        let ready = Ready::of(unpacked, None);
        let file = place.join("image.tar");
        let into =
            std::fs::File::create_new(&file).map_err(|source| ArchiveError::Io { path: file.clone(), source })?;
        let ids = archive::write(&ready.contents(), into)?;
        // Space for the next one.
        ready.layers.iter().for_each(|layer| drop(std::fs::remove_file(&layer.path)));
        members.insert(format!("images/{}.tar", ids.config.hex()), Member::File(file));
    }
    let output = context.cwd.join(output);
    let failed = |source| ArchiveError::Io { path: output.clone(), source };
    let beside = output.parent().unwrap_or(&context.cwd);
    leftovers::sweep(beside);
    let mut file = leftovers::file_in(beside).map_err(failed)?;
    bundle::write(&members, file.as_file_mut())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(&output).map_err(|error| failed(error.error))?;
    ui::note(&format!("{}: {} images, {wheels} wheels and choices", output.display(), images.len()));
    Ok(())
}

/// What the wheel store holds of the lock, as members; an error where it lacks what an interpreter of this machine needs.
fn wheels(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    locked: &BTreeSet<String>,
    members: &mut BTreeMap<String, Member>,
) -> Result<(), Failure> {
    let environments = env::store(context, repo);
    let wheels = environments.wheels();
    let (files, choices) = wheels.held(locked)?;
    let mut known = 0;
    for python in &lock.matrix {
        let asked = Asked { source: &Source::Worktree, python, untracked: Vec::new(), cells: false, contained: None };
        let survey = survey::survey(context, repo, lock, asked);
        let Some(interpreter) = &survey.interpreter else { continue };
        known += 1;
        let held = |chosen: &Chosen| files.contains(chosen);
        let missing: Vec<String> = survey
            .pinned
            .iter()
            .filter(|pinned| !wheels.chosen(pinned, interpreter).is_some_and(|chosen| held(&chosen)))
            .map(|pinned| format!("{}=={}", pinned.name, pinned.version))
            .collect();
        if !missing.is_empty() {
            let what = format!("for Python {python} not in the wheel store: {}", missing.join(", "));
            return Err(Failure::new(
                ExitCode::INFRASTRUCTURE,
                what,
                "`ft env build`, or a run in the container, fetches them",
            ));
        }
    }
    if known == 0 {
        ui::warning("no Python of the lock is installed here: whether every wheel is there was not looked at", None);
    }
    for chosen in files {
        let name = format!("wheels/{}/{}", chosen.sha256, chosen.file);
        members.insert(name, Member::File(wheels.file(&chosen)));
    }
    for choice in choices {
        members.insert(format!("choices/{}", choice.key), Member::Bytes(choice.text().into_bytes()));
    }
    Ok(())
}

/// Everything is verified before anything is used.
pub(super) fn load(context: &Context, bundle: &Bundle) -> Result<(), Failure> {
    let (repo, lock) = read_lock(context)?;
    let wanted = images(&lock)?;
    let locked = survey::locked_hashes(&repo, &lock)?;
    let folder = folder(context)?;
    let wheels = verified_wheels(bundle, &locked, folder.path())?;
    let mut choices = Vec::new();
    for (key, text) in bundle.choices()? {
        choices.push(Choice::read(&key, &text, &locked).ok_or_else(|| {
            other_lock(
                ParityCode::PACKAGE_HASH,
                format!("the bundle's choices/{} names what the lock does not have", key.escape_debug()),
            )
        })?);
    }
    let mut ready = Vec::new();
    let mut there = BTreeSet::new();
    for (at, member) in bundle.images().enumerate() {
        let place = folder.path().join(format!("image-{at}"));
        std::fs::create_dir(&place).map_err(|source| ArchiveError::Io { path: place.clone(), source })?;
        let file = place.join("image.tar");
        bundle.extract(member, &file)?;
        let unpacked = store::take(&file, None, None, &place)?;
        let seen = store::seen(&unpacked.image);
        let fits = wanted.iter().filter(|(_, image)| identity::check(image, &seen, member).is_ok());
        let pythons: Vec<&String> = fits.map(|(python, _)| python).collect();
        if pythons.is_empty() {
            // Why not, by the image that every lock has.
            identity::check(&wanted[0].1, &seen, member)?;
        }
        there.extend(pythons);
        ready.push(Ready::of(unpacked, None));
    }
    if let Some((python, image)) = wanted.iter().find(|(python, _)| !there.contains(python)) {
        let what = format!("the bundle lacks the image of Python {python}, {}", image.image);
        return Err(other_lock(ParityCode::IMAGE_IDENTITY, what));
    }
    let spoken = Spoken::new(context)?;
    let environments = env::store(context, &repo);
    let store = environments.wheels();
    let Some(_held) = store.try_hold()? else {
        return Err(Failure::new(
            ExitCode::INFRASTRUCTURE,
            "another ft writes to the wheel store",
            "wait for it, and try again",
        ));
    };
    for (chosen, path) in &wheels {
        store.adopt(chosen, path)?;
    }
    for choice in &choices {
        store.adopt_choice(choice)?;
    }
    for image in &ready {
        spoken.load(context, image)?;
    }
    ui::note(&format!(
        "{} images loaded into {}, {} wheels taken",
        ready.len(),
        spoken.engine.facts().name(),
        wheels.len()
    ));
    Ok(())
}

/// Each wheel in a file of ours, with the hash that the lock has.
fn verified_wheels(
    bundle: &Bundle,
    locked: &BTreeSet<String>,
    folder: &Path,
) -> Result<Vec<(Chosen, PathBuf)>, Failure> {
    let mut wheels = Vec::new();
    for (at, (member, sha256, file)) in bundle.wheels().enumerate() {
        if !locked.contains(&format!("sha256:{sha256}")) {
            let what = format!("the bundle's {} has no hash of the lock", member.escape_debug());
            return Err(other_lock(ParityCode::PACKAGE_HASH, what));
        }
        let path = folder.join(format!("wheel-{at}"));
        bundle.extract(member, &path)?;
        let (_, found) = crate::environment::seal::hash_file(&path)
            .map_err(|source| ArchiveError::Io { path: path.clone(), source })?;
        if hex::encode(found) != sha256 {
            let what = format!("the bundle's {} has sha256 {}", member.escape_debug(), hex::encode(found));
            return Err(other_lock(ParityCode::PACKAGE_HASH, what));
        }
        wheels.push((Chosen { sha256: sha256.to_owned(), file: file.to_owned() }, path));
    }
    Ok(wheels)
}

fn other_lock(code: ParityCode, what: String) -> Failure {
    let hint = "nothing of it was used: make the bundle again, with `ft image save --bundle` in a clone with this lock";
    Finding::new(code, "preflight", what).hint(hint).into()
}
