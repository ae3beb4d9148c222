//! `uv.lock`, read natively: the graph that uv resolved, walked from the project for one interpreter. uv itself is not
//! needed, and nothing is resolved a second time. Format: version 1, as uv writes it since 0.5.

use super::closure::{ClosureError, MarkerEnv, Member, Pinned};
use super::requirements::is_sha256;
use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerTree, PackageName};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// A `uv.lock` with what the lock wants of it.
#[derive(Debug, Clone)]
pub(super) struct UvLock {
    file: File,
    /// Indices of the packages where the walk starts.
    roots: Vec<usize>,
    groups: Vec<PackageName>,
    extras: Vec<ExtraName>,
    /// What the walk reaches for some interpreter: with every marker taken as true.
    reachable: BTreeSet<PackageName>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    version: i64,
    requires_python: Option<VersionSpecifiers>,
    #[serde(default)]
    supported_markers: Vec<Marker>,
    #[serde(default)]
    manifest: Manifest,
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    #[serde(default)]
    members: Vec<PackageName>,
    /// Groups of a workspace root that is no project itself.
    #[serde(default)]
    dependency_groups: BTreeMap<PackageName, Vec<Dependency>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: PackageName,
    /// Absent where the project computes its version.
    version: Option<Version>,
    source: Source,
    #[serde(default)]
    resolution_markers: Vec<Marker>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
    #[serde(default)]
    optional_dependencies: BTreeMap<ExtraName, Vec<Dependency>>,
    #[serde(default)]
    dev_dependencies: BTreeMap<PackageName, Vec<Dependency>>,
    sdist: Option<Artifact>,
    #[serde(default)]
    wheels: Vec<Artifact>,
    #[serde(default)]
    metadata: Metadata,
}

/// What the project asked for, resolved or not: here its empty groups and extras still have a name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    #[serde(default)]
    provides_extras: Vec<ExtraName>,
    #[serde(default)]
    requires_dev: BTreeMap<PackageName, serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Registry(String),
    Git(String),
    Url(String),
    Path(String),
    Directory(String),
    Editable(String),
    Virtual(String),
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    name: PackageName,
    version: Option<Version>,
    source: Option<Source>,
    marker: Option<Marker>,
    #[serde(default)]
    extra: BTreeSet<ExtraName>,
}

#[derive(Debug, Clone, Deserialize)]
struct Artifact {
    hash: Option<String>,
}

#[derive(Debug, Clone)]
struct Marker(MarkerTree);

impl<'de> Deserialize<'de> for Marker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        MarkerTree::from_str(&text).map(Marker).map_err(serde::de::Error::custom)
    }
}

impl UvLock {
    pub(super) fn read(
        text: &str,
        groups: &[String],
        extras: &[String],
        project: Option<&str>,
    ) -> Result<UvLock, ClosureError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            ClosureError::Toml(format!("line {line}: {}", error.message().trim()))
        })?;
        if file.version != 1 {
            return Err(ClosureError::Format(file.version));
        }
        let roots = roots(&file, project)?;
        let groups = groups.iter().map(|group| known_group(&file, &roots, group)).collect::<Result<_, _>>()?;
        let extras = extras.iter().map(|extra| known_extra(&file, &roots, extra)).collect::<Result<_, _>>()?;
        let mut lock = UvLock { file, roots, groups, extras, reachable: BTreeSet::new() };
        lock.reachable = lock.reach_any();
        Ok(lock)
    }

    /// Whether some interpreter's environment holds this distribution.
    pub(super) fn names(&self, name: &PackageName) -> bool {
        self.reachable.contains(name)
    }

    /// What [`UvLock::names`] knows, without the projects of the workspace.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &PackageName> {
        let local =
            |name: &PackageName| self.file.packages.iter().any(|package| package.name == *name && is_local(package));
        self.reachable.iter().filter(move |name| !local(name))
    }

    /// The hash of every file of every package that is reached from some interpreter.
    pub(super) fn hashes(&self) -> Vec<String> {
        let files = self.file.packages.iter().filter(|package| self.reachable.contains(&package.name));
        files.filter_map(|package| pin(package).ok()).flat_map(|pinned| pinned.hashes).collect()
    }

    fn reach_any(&self) -> BTreeSet<PackageName> {
        let mut reached: BTreeSet<(&PackageName, Option<&ExtraName>)> = BTreeSet::new();
        let mut queue: Vec<(&PackageName, Option<&ExtraName>)> = Vec::new();
        fn wants(dependency: &Dependency) -> impl Iterator<Item = (&PackageName, Option<&ExtraName>)> {
            let extras = dependency.extra.iter().map(|extra| (&dependency.name, Some(extra)));
            std::iter::once((&dependency.name, None)).chain(extras)
        }
        for root in self.roots.iter().map(|at| &self.file.packages[*at]) {
            queue.push((&root.name, None));
            queue.extend(self.extras.iter().map(|extra| (&root.name, Some(extra))));
            let groups = self.groups.iter().filter_map(|group| root.dev_dependencies.get(group));
            queue.extend(groups.flatten().flat_map(wants));
        }
        let shared = self.groups.iter().filter_map(|group| self.file.manifest.dependency_groups.get(group));
        queue.extend(shared.flatten().flat_map(wants));
        while let Some((name, extra)) = queue.pop() {
            if !reached.insert((name, extra)) {
                continue;
            }
            for package in self.file.packages.iter().filter(|package| package.name == *name) {
                let dependencies = match extra {
                    None => Some(&package.dependencies),
                    Some(extra) => package.optional_dependencies.get(extra),
                };
                queue.extend(dependencies.into_iter().flatten().flat_map(wants));
            }
        }
        reached.into_iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn versions_of(&self, name: &PackageName) -> Vec<Version> {
        let named = self.file.packages.iter().filter(|package| package.name == *name);
        named.filter_map(|package| package.version.clone()).collect()
    }

    /// What the walk reaches, without the project and its workspace.
    pub(super) fn select(&self, env: &MarkerEnv) -> Result<Vec<(PackageName, Pinned)>, ClosureError> {
        let reached = self.reach(env)?;
        let mut pinned = Vec::new();
        for package in reached.into_iter().map(|at| &self.file.packages[at]) {
            if self.is_member(package) {
                continue;
            }
            pinned.push((package.name.clone(), pin(package)?));
        }
        Ok(pinned)
    }

    /// Workspace members that the walk reaches beside its roots.
    pub(super) fn members(&self, env: &MarkerEnv) -> Result<Vec<Member>, ClosureError> {
        let reached = self.reach(env)?;
        let members = reached.into_iter().filter(|at| !self.roots.contains(at)).map(|at| &self.file.packages[at]);
        let local = members.filter_map(|package| match &package.source {
            Source::Editable(path) | Source::Directory(path) if self.is_member(package) => {
                Some(Member { name: package.name.to_string(), path: path.clone() })
            }
            _ => None,
        });
        Ok(local.collect())
    }

    fn is_member(&self, package: &Package) -> bool {
        let local = matches!(package.source, Source::Editable(_) | Source::Virtual(_) | Source::Directory(_));
        let root = self.roots.iter().any(|at| self.file.packages[*at].name == package.name);
        local && (root || self.file.manifest.members.contains(&package.name))
    }

    /// Indices of every package that the environment needs, the roots first.
    fn reach(&self, env: &MarkerEnv) -> Result<BTreeSet<usize>, ClosureError> {
        self.check(env)?;
        // Where extras or groups exclude each other, uv writes markers over names of this form.
        let mut active = Vec::new();
        for root in self.roots.iter().map(|at| &self.file.packages[*at].name) {
            let written = |kind: &str, chosen: &str| format!("{kind}-{}-{root}-{chosen}", root.as_ref().len());
            active.extend(self.extras.iter().map(|extra| written("extra", extra.as_ref())));
            active.extend(self.groups.iter().map(|group| written("group", group.as_ref())));
        }
        let active: Vec<ExtraName> = active.into_iter().filter_map(|name| ExtraName::new(name).ok()).collect();

        let mut queue: Vec<(usize, Option<ExtraName>)> = Vec::new();
        for root in &self.roots {
            queue.push((*root, None));
            queue.extend(self.extras.iter().map(|extra| (*root, Some(extra.clone()))));
        }
        let mut seen: BTreeSet<(usize, Option<ExtraName>)> = BTreeSet::new();
        let chosen_groups = self.roots.iter().flat_map(|root| {
            let own = &self.file.packages[*root].dev_dependencies;
            self.groups.iter().filter_map(move |group| own.get(group)).flatten()
        });
        let shared_groups =
            self.groups.iter().filter_map(|group| self.file.manifest.dependency_groups.get(group)).flatten();
        for dependency in chosen_groups.chain(shared_groups) {
            self.follow(dependency, "a dependency group", env, &active, &mut queue)?;
        }
        while let Some((at, extra)) = queue.pop() {
            if !seen.insert((at, extra.clone())) {
                continue;
            }
            let package = &self.file.packages[at];
            let dependencies = match &extra {
                None => Some(&package.dependencies),
                Some(extra) => package.optional_dependencies.get(extra),
            };
            for dependency in dependencies.into_iter().flatten() {
                self.follow(dependency, package.name.as_ref(), env, &active, &mut queue)?;
            }
        }
        Ok(seen.into_iter().map(|(at, _)| at).collect())
    }

    fn follow(
        &self,
        dependency: &Dependency,
        wanted_by: &str,
        env: &MarkerEnv,
        active: &[ExtraName],
        queue: &mut Vec<(usize, Option<ExtraName>)>,
    ) -> Result<(), ClosureError> {
        if dependency.marker.as_ref().is_some_and(|marker| !marker.0.evaluate(env, active)) {
            return Ok(());
        }
        let fits = |package: &Package| {
            package.name == dependency.name
                && dependency.version.as_ref().is_none_or(|version| package.version.as_ref() == Some(version))
                && dependency.source.as_ref().is_none_or(|source| package.source == *source)
        };
        let in_fork = |package: &Package| {
            let markers = &package.resolution_markers;
            markers.is_empty() || markers.iter().any(|marker| marker.0.evaluate(env, active))
        };
        let candidates: Vec<usize> =
            (0..self.file.packages.len()).filter(|at| fits(&self.file.packages[*at])).collect();
        let chosen = match candidates.as_slice() {
            [only] => Some(*only),
            several => several.iter().copied().find(|at| in_fork(&self.file.packages[*at])),
        };
        let Some(at) = chosen else {
            let (name, wanted_by) = (dependency.name.to_string(), wanted_by.to_owned());
            return Err(ClosureError::Missing { name, wanted_by });
        };
        queue.push((at, None));
        queue.extend(dependency.extra.iter().map(|extra| (at, Some(extra.clone()))));
        Ok(())
    }

    /// Whether uv resolved for this interpreter at all.
    fn check(&self, env: &MarkerEnv) -> Result<(), ClosureError> {
        let python = env.python_full_version();
        if let Some(required) =
            self.file.requires_python.as_ref().filter(|required| !required.contains(&python.version))
        {
            return Err(ClosureError::Python { required: required.to_string(), found: python.to_string() });
        }
        let supported = &self.file.supported_markers;
        if !supported.is_empty() && !supported.iter().any(|marker| marker.0.evaluate(env, &[])) {
            let shown: Vec<_> = supported.iter().filter_map(|marker| marker.0.try_to_string()).collect();
            return Err(ClosureError::Platform(shown.join(" or ")));
        }
        Ok(())
    }
}

/// Where the walk starts: the named project, or the one at the root, or every member of a workspace without one.
fn roots(file: &File, project: Option<&str>) -> Result<Vec<usize>, ClosureError> {
    let missing = || ClosureError::NoProject(project.map(str::to_owned));
    let found: Vec<usize> = match project {
        Some(name) => {
            let name = PackageName::from_str(name).map_err(|_| missing())?;
            (0..file.packages.len())
                .filter(|at| file.packages[*at].name == name && is_local(&file.packages[*at]))
                .collect()
        }
        None => {
            let at_root = |package: &Package| match &package.source {
                Source::Editable(path) | Source::Virtual(path) | Source::Directory(path) => path == ".",
                _ => false,
            };
            let root: Vec<usize> = (0..file.packages.len()).filter(|at| at_root(&file.packages[*at])).collect();
            if root.is_empty() {
                let member = |at: &usize| file.manifest.members.contains(&file.packages[*at].name);
                (0..file.packages.len()).filter(member).collect()
            } else {
                root
            }
        }
    };
    if found.is_empty() && file.manifest.dependency_groups.is_empty() { Err(missing()) } else { Ok(found) }
}

fn is_local(package: &Package) -> bool {
    matches!(package.source, Source::Editable(_) | Source::Virtual(_) | Source::Directory(_))
}

fn known_group(file: &File, roots: &[usize], group: &str) -> Result<PackageName, ClosureError> {
    let mut known: BTreeSet<&PackageName> = file.manifest.dependency_groups.keys().collect();
    for root in roots {
        known.extend(file.packages[*root].dev_dependencies.keys());
        known.extend(file.packages[*root].metadata.requires_dev.keys());
    }
    PackageName::from_str(group).ok().filter(|name| known.contains(name)).ok_or_else(|| ClosureError::Group {
        name: group.to_owned(),
        known: known.iter().map(ToString::to_string).collect(),
    })
}

fn known_extra(file: &File, roots: &[usize], extra: &str) -> Result<ExtraName, ClosureError> {
    let mut known: BTreeSet<&ExtraName> = BTreeSet::new();
    for root in roots {
        known.extend(file.packages[*root].optional_dependencies.keys());
        known.extend(&file.packages[*root].metadata.provides_extras);
    }
    ExtraName::from_str(extra).ok().filter(|name| known.contains(name)).ok_or_else(|| ClosureError::Extra {
        name: extra.to_owned(),
        known: known.iter().map(ToString::to_string).collect(),
    })
}

fn pin(package: &Package) -> Result<Pinned, ClosureError> {
    let name = package.name.to_string();
    let elsewhere = |kind, origin: &String| {
        // What stands before `@` may be a password.
        let origin = match origin.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
            None => origin.clone(),
        };
        Err(ClosureError::NotFromIndex { name: name.clone(), kind, origin })
    };
    match &package.source {
        Source::Registry(_) => {}
        Source::Git(origin) => return elsewhere("git", origin),
        Source::Url(origin) => return elsewhere("a URL", origin),
        Source::Path(origin) | Source::Directory(origin) | Source::Editable(origin) | Source::Virtual(origin) => {
            return elsewhere("a path", origin);
        }
    }
    let version = package.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut hashes = Vec::new();
    for artifact in package.wheels.iter().chain(&package.sdist) {
        let digest =
            artifact.hash.as_deref().and_then(|hash| hash.strip_prefix("sha256:")).filter(|hex| is_sha256(hex));
        match digest {
            Some(digest) => hashes.push(format!("sha256:{}", digest.to_ascii_lowercase())),
            None => return Err(ClosureError::Unhashed { name, version }),
        }
    }
    if hashes.is_empty() || version.is_empty() {
        return Err(ClosureError::Unhashed { name, version });
    }
    hashes.sort();
    hashes.dedup();
    Ok(Pinned { name, version, hashes, sdist: package.wheels.is_empty() })
}
