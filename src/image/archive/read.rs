//! What images an archive holds, and their content: verified blob by blob, layer by layer, before anybody sees it.

use super::blocks::{Blocks, Fault};
use super::layer::LayerFile;
use super::members::Members;
use super::unzip::unzip;
use super::{ArchiveError, Limits};
use crate::lock::image::{Digest, ImageName, Platform, Reference};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use tar::EntryType;

/// How deep an index may hold indices.
const DEEPEST: usize = 4;

/// An archive, of which everything but the layers is verified.
#[derive(Debug)]
pub struct Archive {
    members: Members,
    limits: Limits,
    images: Vec<Found>,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it is called there.
    pub names: Vec<Reference>,
    /// Its configuration.
    pub config: Value,
    /// The bytes of that, whose digest is `config_digest`.
    pub config_bytes: Vec<u8>,
    /// The digest of the configuration.
    pub config_digest: Digest,
    /// The digest of its manifest, where the archive is an OCI layout.
    pub manifest_digest: Option<Digest>,
    /// For which machines it is.
    pub platform: Platform,
    /// The digests of its unpacked layers, as its configuration says, lowest first.
    pub diff_ids: Vec<Digest>,
    layers: Vec<Blob>,
}

/// A layer as it stands in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    member: String,
    /// What a manifest says of it: digest and size as it is stored.
    said: Option<(Digest, u64)>,
}

/// A verified image whose layers are files of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// What it is.
    pub image: Found,
    /// Its unpacked layers.
    pub layers: Vec<LayerFile>,
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Value>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Archive {
    /// Reads the table of contents of the archive at `path`, a docker-archive or an OCI layout, in a tar or a directory.
    ///
    /// # Errors
    /// [`ArchiveError`]: it can't be read, is broken, or contradicts itself.
    pub fn open(path: &Path, limits: Limits) -> Result<Archive, ArchiveError> {
        Archive::of(Members::open(path, &limits)?, limits)
    }

    fn of(members: Members, limits: Limits) -> Result<Archive, ArchiveError> {
        let mut archive = Archive { members, limits, images: Vec::new() };
        let mut from_index = Vec::new();
        if archive.members.has("index.json") && archive.members.has("oci-layout") {
            archive.index("index.json", None, &[], 0, &mut from_index)?;
        }
        archive.images = if archive.members.has("manifest.json") {
            let entries: Vec<DockerEntry> = archive.json("manifest.json")?;
            let mut images = Vec::new();
            for entry in entries {
                let mut image = archive.docker(entry)?;
                // The same image under the other table of contents of the same file.
                let same = from_index.iter().find(|other: &&Found| other.config_digest == image.config_digest);
                image.manifest_digest = same.and_then(|same| same.manifest_digest);
                images.push(image);
            }
            images
        } else {
            from_index
        };
        if archive.images.is_empty() {
            let what = "holds no image: neither a manifest.json nor an index.json with manifests";
            return Err(archive.refused(what));
        }
        Ok(archive)
    }

    /// The images, in the archive's order.
    #[must_use]
    pub fn images(&self) -> &[Found] {
        &self.images
    }

    /// The one image that is meant: by name or digest where one is given, of a platform that `platform` takes where that
    /// is given.
    ///
    /// # Errors
    /// None, or several.
    pub fn choose(&self, name: Option<&ImageName>, platform: Option<&Platform>) -> Result<&Found, ArchiveError> {
        let fits = |image: &&Found| {
            let named = match name {
                None => true,
                Some(ImageName::Id(id)) => image.config_digest == *id || image.manifest_digest == Some(*id),
                Some(ImageName::Named(name)) => {
                    let digest = name.digest.is_some_and(|digest| image.manifest_digest == Some(digest));
                    digest || image.names.iter().any(|other| same_tag(name, other))
                }
            };
            named && platform.is_none_or(|platform| platform.takes(&image.platform))
        };
        let fitting: Vec<&Found> = self.images.iter().filter(fits).collect();
        let all = || self.images.iter().map(Found::shown).collect::<Vec<_>>().join("; ");
        let wanted = name.map(|name| format!(" called {name}")).unwrap_or_default();
        match fitting.as_slice() {
            [image] => Ok(image),
            [] => {
                let platform = platform.map(|platform| format!(" for {platform}")).unwrap_or_default();
                Err(self.choice(format!("holds no image{wanted}{platform}; it holds {}", all())))
            }
            several => Err(self.choice(format!("holds {} images{wanted}: {}", several.len(), all()))),
        }
    }

    /// Reads every layer of an image and verifies it. Where `into` is a folder, the unpacked layers are left there; the
    /// caller removes them where this fails.
    ///
    /// # Errors
    /// [`ArchiveError`]: a layer is not what the configuration or the manifest says, or is no tar of a file system.
    pub fn unpack(&self, image: &Found, into: Option<&Path>) -> Result<Unpacked, ArchiveError> {
        let mut left = self.limits.unpacked;
        let mut layers = Vec::new();
        for (at, (blob, diff_id)) in image.layers.iter().zip(&image.diff_ids).enumerate() {
            if let Some((digest, size)) = blob.said {
                self.stored(blob, digest, size)?;
            }
            let path = into.map(|into| into.join(format!("layer-{at}")));
            let (found, bytes) = self.unpacked(blob, path.as_deref(), left)?;
            if found != *diff_id {
                return Err(self.differs(
                    &format!("layer {} of {}, unpacked,", at + 1, image.layers.len()),
                    found,
                    diff_id,
                ));
            }
            left -= bytes;
            layers.extend(path.map(|path| LayerFile { path, diff_id: found, bytes }));
        }
        Ok(Unpacked { image: image.clone(), layers })
    }

    /// The digest of a blob as it is stored.
    fn stored(&self, blob: &Blob, digest: Digest, size: u64) -> Result<(), ArchiveError> {
        let found = self.members.size(&blob.member).unwrap_or(0);
        if found != size {
            return Err(self.differs(&format!("the size of {}", blob.member), found, size));
        }
        let mut hash = Sha256::new();
        let mut reader = self.members.reader(&blob.member)?;
        io::copy(&mut reader, &mut Hash(&mut hash)).map_err(ArchiveError::at(self.members.path()))?;
        let found = Digest(hash.finalize().into());
        if found == digest { Ok(()) } else { Err(self.differs(&blob.member, found, digest)) }
    }

    /// Unpacks a layer, hashes it, and looks at its entries. At most `most` bytes.
    fn unpacked(&self, blob: &Blob, into: Option<&Path>, most: u64) -> Result<(Digest, u64), ArchiveError> {
        let name = blob.member.as_bytes();
        let refuse = |what: &str| ArchiveError::member(self.members.path(), name, what);
        let reader = self.members.reader(&blob.member)?;
        let out = match into {
            Some(path) => Some(File::create_new(path).map_err(ArchiveError::at(path))?),
            None => None,
        };
        let from = unzip(reader).map_err(|error| refuse(&format!("can't be unpacked: {error}")))?;
        let mut kept = Kept { from, out, hash: Sha256::new(), bytes: 0, most, written: Ok(()) };
        let walked = walk(&mut kept, self.limits.entries);
        if kept.bytes > most {
            return Err(refuse(&format!("more than the {} bytes that an image may have", self.limits.unpacked)));
        }
        if let (Err(error), Some(path)) = (std::mem::replace(&mut kept.written, Ok(())), into) {
            return Err(ArchiveError::at(path)(error));
        }
        walked.map_err(|fault| match fault {
            Fault::Io(error) => refuse(&format!("can't be unpacked: {error}")),
            Fault::Tar(what) => refuse(&format!("no layer: {what}")),
        })?;
        Ok((Digest(kept.hash.finalize().into()), kept.bytes))
    }

    /// Every image of an index, also of indices inside of it.
    fn index(
        &self,
        member: &str,
        said: Option<(Digest, u64)>,
        names: &[Reference],
        depth: usize,
        images: &mut Vec<Found>,
    ) -> Result<(), ArchiveError> {
        if depth > DEEPEST || images.len() > 100 {
            return Err(self.refused("an index with too many images, or indices in it"));
        }
        let bytes = self.document(member, said)?;
        let index: Index = self.parsed(member, &bytes)?;
        for descriptor in index.manifests {
            // What builders add beside an image: signatures and statements, for no platform.
            let beside = descriptor.platform.as_ref().is_some_and(|platform| platform["os"] == "unknown");
            if beside {
                continue;
            }
            let (digest, blob) = self.blob(&descriptor)?;
            let mut all = names.to_vec();
            all.extend(descriptor.annotations.iter().flatten().filter_map(|(key, value)| match key.as_str() {
                "io.containerd.image.name" => value.parse().ok(),
                // A whole name, or only a tag.
                "org.opencontainers.image.ref.name" if value.contains(['/', ':']) => value.parse().ok(),
                _ => None,
            }));
            let media = descriptor.media_type.as_str();
            if media.ends_with("index.v1+json") || media.ends_with("manifest.list.v2+json") {
                self.index(&blob, Some((digest, descriptor.size)), &all, depth + 1, images)?;
                continue;
            }
            let bytes = self.document(&blob, Some((digest, descriptor.size)))?;
            let manifest: Manifest = self.parsed(&blob, &bytes)?;
            let mut layers = Vec::new();
            for layer in &manifest.layers {
                let (digest, member) = self.blob(layer)?;
                layers.push(Blob { member, said: Some((digest, layer.size)) });
            }
            let (config_digest, config) = self.blob(&manifest.config)?;
            let config = self.document(&config, Some((config_digest, manifest.config.size)))?;
            images.push(self.image(all, config, Some(digest), layers)?);
        }
        Ok(())
    }

    fn docker(&self, entry: DockerEntry) -> Result<Found, ArchiveError> {
        let bytes = self.members.small(&entry.config, self.limits.json)?;
        // Writers name the configuration by its digest.
        let stem = entry.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        let found = Digest(Sha256::digest(&bytes).into());
        if let Ok(said) = format!("sha256:{stem}").parse::<Digest>()
            && said != found
        {
            return Err(self.differs(&entry.config, found, said));
        }
        let names = entry.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
        let layers = entry.layers.unwrap_or_default().into_iter().map(|member| Blob { member, said: None });
        self.image(names, bytes, None, layers.collect())
    }

    fn image(
        &self,
        names: Vec<Reference>,
        config_bytes: Vec<u8>,
        manifest_digest: Option<Digest>,
        layers: Vec<Blob>,
    ) -> Result<Found, ArchiveError> {
        let config: Value = self.parsed("the configuration", &config_bytes)?;
        let read: Config = self.parsed("the configuration", &config_bytes)?;
        let diff_ids: Result<Vec<Digest>, _> = read.rootfs.diff_ids.iter().map(|text| text.parse::<Digest>()).collect();
        let diff_ids = diff_ids.map_err(|_| self.refused("the configuration has a layer that is no sha256"))?;
        if layers.len() > self.limits.layers {
            return Err(self.refused(format!("an image with more than {} layers", self.limits.layers)));
        }
        if layers.len() != diff_ids.len() {
            return Err(self.differs("the number of layers", layers.len(), diff_ids.len()));
        }
        if let Some(missing) = layers.iter().find(|layer| !self.members.has(&layer.member)) {
            let what = "a layer that is named in the archive and not there";
            return Err(ArchiveError::member(self.members.path(), missing.member.as_bytes(), what));
        }
        Ok(Found {
            names,
            config,
            config_digest: Digest(Sha256::digest(&config_bytes).into()),
            config_bytes,
            manifest_digest,
            platform: Platform::new(&read.os, &read.architecture, read.variant.as_deref()),
            diff_ids,
            layers,
        })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<(Digest, String), ArchiveError> {
        let digest: Digest = descriptor.digest.parse().map_err(|_| {
            self.refused(format!("a blob with the digest {}, which is no sha256", descriptor.digest.escape_debug()))
        })?;
        Ok((digest, format!("blobs/sha256/{}", digest.hex())))
    }

    /// A small member, compared with what is said of it.
    fn document(&self, member: &str, said: Option<(Digest, u64)>) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.members.small(member, self.limits.json)?;
        if let Some((digest, size)) = said {
            let found = Digest(Sha256::digest(&bytes).into());
            if bytes.len() as u64 != size {
                return Err(self.differs(&format!("the size of {member}"), bytes.len(), size));
            }
            if found != digest {
                return Err(self.differs(member, found, digest));
            }
        }
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, member: &str) -> Result<T, ArchiveError> {
        self.parsed(member, &self.members.small(member, self.limits.json)?)
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
        serde_json::from_slice(bytes).map_err(|error| self.refused(format!("{}: {error}", what.escape_debug())))
    }

    fn refused(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::refused(self.members.path(), what)
    }

    fn choice(&self, what: String) -> ArchiveError {
        ArchiveError::Choice { path: self.members.path().to_path_buf(), what }
    }

    fn differs(&self, what: &str, found: impl ToString, said: impl ToString) -> ArchiveError {
        ArchiveError::Differs {
            path: self.members.path().to_path_buf(),
            what: what.escape_debug().to_string(),
            found: found.to_string(),
            said: said.to_string(),
        }
    }
}

impl Found {
    /// In a message: names or digest, and platform.
    fn shown(&self) -> String {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        let name = if names.is_empty() { self.config_digest.to_string() } else { names.join(", ") };
        format!("{name} ({})", self.platform)
    }
}

/// Whether both name the same tag of the same repository.
fn same_tag(one: &Reference, other: &Reference) -> bool {
    let tag = |name: &Reference| name.tag.clone().unwrap_or_else(|| "latest".to_owned());
    one.repository() == other.repository() && tag(one) == tag(other)
}

/// Looks at every entry of a layer and reads it to its end. What an engine does with the names is its own matter, and
/// engines had their share of faults there: none gets a layer from us that leads out of its root by name.
fn walk<R: Read>(from: &mut R, most: u64) -> Result<(), Fault> {
    let mut blocks = Blocks::new(from, true);
    let mut entries = 0;
    while let Some(entry) = blocks.next()? {
        entries += 1;
        if entries > most {
            return Err(Fault::Tar("more entries than a layer may have"));
        }
        let leads_up = |name: &[u8]| name.split(|b| *b == b'/').any(|step| step == b"..");
        if leads_up(&entry.name) {
            return Err(Fault::Tar("an entry whose name leads to a parent"));
        }
        if entry.kind == EntryType::Link && leads_up(&entry.link) {
            return Err(Fault::Tar("a hard link that leads to a parent"));
        }
        blocks.content(entry.size, |_| Ok(()))?;
    }
    // What stands behind the end mark belongs to the digest.
    io::copy(blocks.get_mut(), &mut io::sink())?;
    Ok(())
}

struct Hash<'a>(&'a mut Sha256);

impl Write for Hash<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is read through this is hashed, counted, and kept.
struct Kept<R> {
    from: R,
    out: Option<File>,
    hash: Sha256,
    bytes: u64,
    most: u64,
    /// How keeping went: the reader's own errors are another matter.
    written: io::Result<()>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        if self.bytes > self.most {
            return Err(io::Error::other("too many bytes"));
        }
        self.hash.update(&buffer[..read]);
        if let Some(out) = &mut self.out
            && let Err(error) = out.write_all(&buffer[..read])
        {
            self.written = Err(error);
            return Err(io::Error::other("can't be kept"));
        }
        Ok(read)
    }
}
