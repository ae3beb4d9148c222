//! The archive: configuration and layers as blobs, under a docker-archive's and an OCI layout's table of contents.

use super::ArchiveError;
use super::canonical::canonical;
use super::layer::LayerFile;
use crate::lock::image::{Digest, Platform, Reference};
use crate::tar_writer::{EARLIEST, TarWriter};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What goes into an archive.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The bytes of the configuration.
    pub config: &'a [u8],
    /// The unpacked layers, lowest first.
    pub layers: &'a [LayerFile],
    /// What the engine shall call the image when it has loaded it.
    pub name: Option<&'a Reference>,
    /// As the configuration has it.
    pub platform: &'a Platform,
}

/// What identifies an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The digest of its configuration: the image id of most engines.
    pub config: Digest,
    /// The digest of its manifest in our archive: the image id of engines whose store is containerd's.
    pub manifest: Digest,
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn manifest(contents: &Contents<'_>) -> Vec<u8> {
    let layers: Vec<Value> = contents
        .layers
        .iter()
        .map(|layer| json!({ "mediaType": LAYER, "digest": layer.diff_id.to_string(), "size": layer.bytes }))
        .collect();
    let config = digest(contents.config).to_string();
    canonical(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config, "size": contents.config.len() },
        "layers": layers,
    }))
}

/// What the image will be identified by. The name does not count.
#[must_use]
pub fn ids(contents: &Contents<'_>) -> Ids {
    Ids { config: digest(contents.config), manifest: digest(&manifest(contents)) }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes the archive. The layers are read again, and compared with their digests on the way.
///
/// # Errors
/// A layer can't be read or is no longer what it was; or `into` can't be written, which is said of the first layer's
/// path where there is one.
pub fn write<W: Write>(contents: &Contents<'_>, into: W) -> Result<Ids, ArchiveError> {
    let ids = ids(contents);
    let manifest = manifest(contents);
    let tag = contents.name.map(|name| format!("{}:{}", name.name(), tag_of(name)));
    let mut platform = json!({ "os": contents.platform.os, "architecture": contents.platform.architecture });
    if let Some(variant) = &contents.platform.variant {
        platform["variant"] = variant.clone().into();
    }
    let mut entry = json!({
        "mediaType": MANIFEST, "digest": ids.manifest.to_string(), "size": manifest.len(), "platform": platform,
    });
    if let Some(name) = contents.name {
        entry["annotations"] = json!({
            "io.containerd.image.name": format!("{}:{}", name.repository(), tag_of(name)),
            "org.opencontainers.image.ref.name": tag_of(name),
        });
    }
    let layers: Vec<String> = contents.layers.iter().map(|layer| blob(&layer.diff_id)).collect();
    let docker =
        json!([{ "Config": blob(&ids.config), "RepoTags": tag.into_iter().collect::<Vec<_>>(), "Layers": layers }]);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });

    enum Member<'a> {
        Bytes(Vec<u8>),
        Layer(&'a LayerFile),
    }
    // Sorted by name; layers that come twice stand there once.
    let mut members: BTreeMap<String, Member<'_>> = BTreeMap::new();
    members.insert(blob(&ids.config), Member::Bytes(contents.config.to_vec()));
    members.insert(blob(&ids.manifest), Member::Bytes(manifest));
    members.insert("index.json".to_owned(), Member::Bytes(canonical(&index)));
    members.insert("manifest.json".to_owned(), Member::Bytes(canonical(&docker)));
    let layout = canonical(&json!({ "imageLayoutVersion": "1.0.0" }));
    members.insert("oci-layout".to_owned(), Member::Bytes(layout));
    for layer in contents.layers {
        members.insert(blob(&layer.diff_id), Member::Layer(layer));
    }
    let mut tar = TarWriter::new(into);
    for (name, member) in members {
        match member {
            Member::Bytes(bytes) => tar
                .file(name.as_bytes(), false, EARLIEST, bytes.len() as u64, bytes.as_slice())
                .map_err(ArchiveError::at(&name))?,
            Member::Layer(layer) => put(&mut tar, &name, layer)?,
        }
    }
    tar.finish().map_err(ArchiveError::at("the archive"))?;
    Ok(ids)
}

fn put<W: Write>(tar: &mut TarWriter<W>, name: &str, layer: &LayerFile) -> Result<(), ArchiveError> {
    let path = &layer.path;
    let file = File::open(path).map_err(ArchiveError::at(path))?;
    let mut hashed = Hashed { from: file.take(layer.bytes), hash: Sha256::new() };
    tar.file(name.as_bytes(), false, EARLIEST, layer.bytes, &mut hashed).map_err(ArchiveError::at(path))?;
    let found = Digest(hashed.hash.finalize().into());
    if found == layer.diff_id {
        return Ok(());
    }
    let (found, said) = (found.to_string(), layer.diff_id.to_string());
    Err(ArchiveError::Differs { path: path.clone(), what: "the layer".to_owned(), found, said })
}

/// The tag under which an image is loaded: the usual one where none is named.
fn tag_of(name: &Reference) -> &str {
    name.tag.as_deref().unwrap_or("latest")
}

struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
