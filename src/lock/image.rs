//! How images are named: digests, references, platforms. Text only; no engine is asked.
//!
//! The grammar is that of the distribution project: `[domain[:port]/]path[:tag][@sha256:...]`. A colon is a tag only behind
//! the last slash, so `localhost:5000/x` has a port and no tag.

use std::fmt;
use std::str::FromStr;

/// The longest name that registries take, without tag and digest.
const LONGEST_NAME: usize = 255;
/// Where a name without a domain leads.
const DEFAULT_DOMAIN: &str = "docker.io";

/// A sha256, written `sha256:` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The 64 digits alone, in lower case.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("sha256:{}", self.hex()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Digest, ReferenceError> {
        let hex = text.strip_prefix("sha256:").ok_or(ReferenceError::Digest)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(hex, &mut digest).map_err(|_| ReferenceError::Digest)?;
        Ok(Digest(digest))
    }
}

/// Why a text names no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing, or nothing before the tag or the digest.
    #[error("the name of an image is missing")]
    Empty,
    /// Behind the `@`, or alone, stands no sha256.
    #[error("a digest is `sha256:` and 64 hexadecimal digits")]
    Digest,
    /// The part before the first slash is no host.
    #[error("the registry before the first `/` is no host name with an optional port")]
    Domain,
    /// One of the parts of the path.
    #[error("names of images are lower case letters and digits, joined by `.`, `_`, `__`, `-` and `/`")]
    Path,
    /// What stands behind the last colon.
    #[error("a tag is at most 128 letters, digits, `_`, `.` and `-`, and begins with a letter, a digit or `_`")]
    Tag,
    /// Too long.
    #[error("the name of an image has at most {LONGEST_NAME} bytes")]
    Long,
}

/// A name, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The registry, where one is named.
    pub domain: Option<String>,
    /// The name below it.
    pub path: String,
    /// The tag, which says nothing about the content.
    pub tag: Option<String>,
    /// The digest of a manifest or an index in that registry.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The repository with the registry's defaults filled in: engines write it in either form.
    #[must_use]
    pub fn repository(&self) -> String {
        let domain = match self.domain.as_deref() {
            None | Some("index.docker.io") => DEFAULT_DOMAIN,
            Some(domain) => domain,
        };
        let official = domain == DEFAULT_DOMAIN && !self.path.contains('/');
        format!("{domain}/{}{}", if official { "library/" } else { "" }, self.path)
    }

    /// The name without tag and digest, as it was written.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.domain {
            Some(domain) => format!("{domain}/{}", self.path),
            None => self.path.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(colon) => (&rest[..after_slash + colon], Some(&rest[after_slash + colon + 1..])),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if name.len() > LONGEST_NAME {
            return Err(ReferenceError::Long);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, path)) if is_meant_as_domain(first) => {
                if !is_domain(first) {
                    return Err(ReferenceError::Domain);
                }
                (Some(first.to_owned()), path)
            }
            _ => (None, name),
        };
        if !path.split('/').all(is_component) {
            return Err(ReferenceError::Path);
        }
        Ok(Reference { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

/// `library/x` is a path, `example.org/x` a registry: what tells them apart is a dot, a colon, an upper case letter, or
/// the one name that is a host without any.
fn is_meant_as_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (good, port) = match bracketed {
        Some((address, "")) => (address.parse::<std::net::Ipv6Addr>().is_ok(), None),
        Some((address, rest)) => match rest.strip_prefix(':') {
            Some(port) => (address.parse::<std::net::Ipv6Addr>().is_ok(), Some(port)),
            None => (false, None),
        },
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let label = |label: &str| {
                let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
                !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(inner)
            };
            (host.split('.').all(label), port)
        }
    };
    good && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Lower case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(alphanumeric).filter(|between| !between.is_empty());
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && separators
            .into_iter()
            .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// What the lock's `image` names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageName {
    /// `sha256:...`: the digest of the configuration, for an image that never was in a registry.
    Id(Digest),
    /// `name@sha256:...`, or a name that pins nothing.
    Named(Reference),
}

impl ImageName {
    /// Whether the name says which bytes are meant.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        match self {
            ImageName::Id(_) => true,
            ImageName::Named(reference) => reference.digest.is_some(),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageName::Id(digest) => fmt::Display::fmt(digest, f),
            ImageName::Named(reference) => fmt::Display::fmt(reference, f),
        }
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<ImageName, ReferenceError> {
        // Read as a reference, this would be the tag of an image that is called sha256.
        if text.starts_with("sha256:") { text.parse().map(ImageName::Id) } else { text.parse().map(ImageName::Named) }
    }
}

/// An architecture's name in images, from the kernel's or Rust's (the image specification takes Go's).
#[must_use]
pub fn goarch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's names: `amd64`, `arm64`.
    pub architecture: String,
    /// `v7`; absent where there is only one.
    pub variant: Option<String>,
}

impl Platform {
    /// From what an engine or a configuration says, which is empty where nothing is known.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        // The one variant of arm64 is written by some and left out by others.
        let variant = variant.filter(|variant| !(variant.is_empty() || (architecture == "arm64" && *variant == "v8")));
        Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Whether an image of the `other` platform is one that was asked for with this.
    #[must_use]
    pub fn takes(&self, other: &Platform) -> bool {
        let variant = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ();
    fn from_str(text: &str) -> Result<Platform, ()> {
        let word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() <= 1 && parts.iter().all(word) => {
                Ok(Platform::new(os, architecture, rest.first().copied()))
            }
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(text: &str) -> Result<Reference, ReferenceError> {
        text.parse()
    }

    #[test]
    fn a_port_is_no_tag() {
        let reference = read("localhost:5000/x").unwrap();
        assert_eq!((reference.domain.as_deref(), reference.path.as_str()), (Some("localhost:5000"), "x"));
        assert_eq!((reference.tag, reference.digest), (None, None));
        let reference = read(&format!("localhost:5000/a/b:1.0@sha256:{HEX}")).unwrap();
        assert_eq!(reference.tag.as_deref(), Some("1.0"));
        assert_eq!(reference.name(), "localhost:5000/a/b");
        assert_eq!(read("[::1]:5000/x").unwrap().domain.as_deref(), Some("[::1]:5000"));
    }

    #[test]
    fn defaults_are_filled_in_where_repositories_are_compared() {
        for (text, repository) in [
            ("python", "docker.io/library/python"),
            ("library/python", "docker.io/library/python"),
            ("docker.io/python", "docker.io/library/python"),
            ("index.docker.io/library/python:3", "docker.io/library/python"),
            ("a/b", "docker.io/a/b"),
            ("localhost/b", "localhost/b"),
            ("ghcr.io/b", "ghcr.io/b"),
        ] {
            assert_eq!(read(text).unwrap().repository(), repository, "{text}");
        }
    }

    #[test]
    fn what_names_no_image_says_why() {
        for (text, why) in [
            ("", ReferenceError::Empty),
            (":3.11", ReferenceError::Empty),
            ("@sha256:00", ReferenceError::Digest),
            ("x@md5:00", ReferenceError::Digest),
            ("x@", ReferenceError::Digest),
            ("x:", ReferenceError::Tag),
            ("x:-a", ReferenceError::Tag),
            ("x:a b", ReferenceError::Tag),
            ("X/y/../z", ReferenceError::Path),
            ("x/../y", ReferenceError::Path),
            ("x//y", ReferenceError::Path),
            ("/x", ReferenceError::Path),
            ("Python", ReferenceError::Path),
            ("a___b", ReferenceError::Path),
            ("host:port/x", ReferenceError::Domain),
            ("host:99999/x", ReferenceError::Domain),
            ("-a.b/x", ReferenceError::Domain),
            ("[::zz]/x", ReferenceError::Domain),
            ("x\n", ReferenceError::Path),
        ] {
            assert_eq!(read(text).unwrap_err(), why, "{text:?}");
        }
        assert_eq!(read(&"a".repeat(256)).unwrap_err(), ReferenceError::Long);
    }

    #[test]
    fn an_id_is_no_tag_of_an_image_called_sha256() {
        let id: ImageName = format!("sha256:{HEX}").parse().unwrap();
        assert!(matches!(id, ImageName::Id(_)) && id.is_pinned());
        assert!("sha256:3.11".parse::<ImageName>().is_err());
        assert!(!"python:3.11".parse::<ImageName>().unwrap().is_pinned());
        assert!(format!("python:3.11@sha256:{HEX}").parse::<ImageName>().unwrap().is_pinned());
    }

    #[test]
    fn platforms_are_compared_by_what_is_asked_for() {
        let read = |text: &str| text.parse::<Platform>().unwrap();
        assert!(read("linux/arm64").takes(&Platform::new("linux", "arm64", Some("v8"))));
        assert!(read("linux/arm").takes(&read("linux/arm/v7")));
        assert!(!read("linux/arm/v6").takes(&read("linux/arm/v7")));
        assert!(!read("linux/amd64").takes(&read("linux/arm64")));
        for wrong in ["linux", "linux/", "linux/amd64/v1/x", "Linux/amd64", ""] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong:?}");
        }
    }

    fn component() -> impl Strategy<Value = String> {
        "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}"
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_the_same(text in "\\PC{0,40}") {
            if let Ok(reference) = read(&text) {
                // Digits of a digest may come in upper case.
                prop_assert_eq!(reference.to_string().to_lowercase(), text.to_lowercase());
                prop_assert_eq!(read(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn what_is_put_together_is_taken_apart_the_same(
            domain in proptest::option::of("([a-z0-9]{1,4}\\.){1,2}[a-z]{2}(:[1-9][0-9]{0,3})?|localhost(:5000)?|[A-Z]{3}"),
            path in proptest::collection::vec(component(), 1..4),
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in proptest::option::of(any::<[u8; 32]>()),
        ) {
            prop_assume!(domain.is_some() || path.len() == 1 || !is_meant_as_domain(&path[0]));
            let reference = Reference { domain, path: path.join("/"), tag, digest: digest.map(Digest) };
            prop_assert_eq!(read(&reference.to_string()).unwrap(), reference);
        }
    }
}
