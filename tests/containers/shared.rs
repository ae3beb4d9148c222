//! What these tests share: a repository whose lock pins an image of this machine's own files, and the engine's own client
//! as a witness from outside.

use crate::container;
use crate::harness::{Project, Report, eventually};
use crate::recipes::images_make;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What the client of this machine's engine says.
pub fn docker(arguments: &[&str]) -> String {
    HERE.docker(arguments)
}

/// An engine that runs are done in: where it is, for `DOCKER_HOST`.
pub struct In<'a>(Option<&'a str>);

/// This machine's, which nobody names.
pub const HERE: In<'static> = In(None);

impl In<'_> {
    /// An engine of a test's own, once it has the image of these tests.
    pub fn private(host: &str) -> In<'_> {
        let engine = In(Some(host));
        engine.take(container::image());
        engine
    }

    /// Gives it an image of this machine's engine.
    pub fn take(&self, image: &str) {
        let Some(host) = self.0 else { return };
        let load = format!("docker save {image} | docker --host {host} load --quiet");
        assert!(Command::new("sh").args(["-c", &load]).stdout(Stdio::null()).status().unwrap().success());
        assert_eq!(self.docker(&["image", "inspect", "--format", "{{.Id}}", image]), pinned(image));
    }

    /// The same project, whose runs find this engine.
    pub fn at(&self, project: Project) -> Project {
        match self.0 {
            Some(host) => project.var("DOCKER_HOST", host),
            None => project,
        }
    }

    /// What the engine's client says.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let host = self.0.map(|host| ["--host", host]);
        let output = Command::new("docker").args(host.iter().flatten()).args(arguments).output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A copy with these tools whose lock pins the image, and whose runs find this engine.
    pub fn project(&self, tools: &[&str]) -> Project {
        let project = Project::with_tools(tools);
        let image = pinned(container::image());
        project.lock(|lock| lock["container"] = serde_json::json!({ "image": image })).commit();
        self.at(project)
    }

    /// What of this repository's is in the engine: containers, and volumes of one run or one container.
    fn left(&self, project: &Project) -> Vec<String> {
        let mine = label(project);
        let containers = self.docker(&["ps", "--all", "--quiet", "--filter", &mine]);
        // Not by a second filter: Podman takes what has one of them.
        let format = "{{.Name}} {{.Label \"ft.run\"}}";
        let volumes = self.docker(&["volume", "ls", "--filter", &mine, "--format", format]);
        let volumes = volumes.lines().filter_map(|line| line.split_once(' ').filter(|(_, run)| !run.is_empty()));
        containers.lines().chain(volumes.map(|(name, _)| name)).map(str::to_owned).collect()
    }

    /// Nothing of it is left, now or in a moment: an engine removes a container after it said that it ended.
    pub fn leaves_nothing(&self, project: &Project) {
        eventually("containers and volumes of this run are gone", || self.left(project).is_empty());
    }
}

/// The image of these tests as a lock names it: by the digest of its content.
pub fn pinned(image: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", image])
}

/// A copy with these tools whose lock pins the image.
pub fn project(tools: &[&str]) -> Project {
    HERE.project(tools)
}

/// A repository whose environment is pytest alone, of wheels for every Python: made quickly, for whoever needs one for
/// each image. The lock names no image yet, and has this one step.
pub fn small() -> Project {
    static REQUIREMENTS: OnceLock<String> = OnceLock::new();
    let requirements = REQUIREMENTS.get_or_init(|| {
        let all = Project::new().read("ci/parity.requirements.txt");
        let wanted = ["pytest==", "iniconfig==", "packaging==", "pluggy==", "pygments=="];
        let mut kept = false;
        let mine = all.lines().filter(|line| {
            if !line.starts_with(' ') {
                kept = wanted.iter().any(|name| line.starts_with(name));
            }
            kept
        });
        mine.flat_map(|line| [line, "\n"]).collect()
    });
    // Which wheel is for another Python than the template's is pip's to say; it finds all of them here.
    let project = Project::empty();
    let links = project.home.join("wheels");
    std::fs::create_dir(&links).unwrap();
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli/cache/wheels/files");
    let files = std::fs::read_dir(store).unwrap().flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
    for wheel in files.map(|entry| entry.unwrap().path()) {
        std::os::unix::fs::symlink(&wheel, links.join(wheel.file_name().unwrap())).unwrap();
    }
    let project = project.var("PIP_FIND_LINKS", links.to_str().unwrap()).var("PIP_NO_INDEX", "1");
    project.write("ci/parity.requirements.txt", requirements);
    project.write("tests/test_demo.py", "def test_small():\n    assert True\n\n\ndef test_large():\n    assert 1000\n");
    let lock = serde_json::json!({
        "version": 2,
        "python": "3.11",
        "environment": {"from": "ci/parity.requirements.txt", "project": "none"},
        "tools": {"pytest": {"args": ["-q", "tests"], "timeout_sec": 60}},
        "pytest_collection": {"allow_uncollected": true},
        "network_policy": {"forbid_network": true},
    });
    project.write("ci/parity.lock.json", lock.to_string());
    project.git(&["init", "-q", "-b", "main"]);
    project.commit();
    project
}

/// How a repository is found in the engine.
pub fn label(project: &Project) -> String {
    format!("label=ft.repository={}", project.root.canonicalize().unwrap().display())
}

/// Nothing of it is left in this machine's engine.
pub fn leaves_nothing(project: &Project) {
    HERE.leaves_nothing(project);
}

/// What stood, as the report has it.
pub fn wall<'a>(report: &'a Report, step: &str, name: &str) -> &'a serde_json::Value {
    let walls = report.step(step)["enforcement"].as_array().unwrap();
    walls.iter().find(|wall| wall["wall"] == name).unwrap_or_else(|| panic!("no {name} in {walls:#?}"))
}

/// An image that is removed whatever happens, with what was made from it in the engine.
pub struct Built {
    pub id: String,
    /// Repositories that ran in it.
    repositories: Vec<String>,
    /// It is one of `images/`, which stays.
    recipe: bool,
}

impl Built {
    /// These lines on top of the image of these tests.
    pub fn on_top(lines: &str) -> Built {
        let mut build = Command::new("docker");
        build
            .args(["build", "--network", "none", "--quiet", "--no-cache", "--force-rm", "-"])
            .env("DOCKER_BUILDKIT", "0");
        let mut build = build.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let text = format!("FROM {}\n{lines}\n", container::image());
        build.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Built { id, repositories: Vec::new(), recipe: false }
    }

    /// One that the engine was given by the test.
    pub fn with_id(id: &str) -> Built {
        Built { id: id.to_owned(), repositories: Vec::new(), recipe: false }
    }

    /// One of `images/`.
    pub fn of(recipe: &str) -> Built {
        Built { id: images_make(recipe), repositories: Vec::new(), recipe: true }
    }

    /// The lock of this repository names it from now on.
    pub fn pin(&mut self, project: &Project) {
        project.lock(|lock| lock["container"] = serde_json::json!({ "image": self.id })).commit();
        self.repositories.push(label(project));
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let quietly = |args: &[&str]| Command::new("docker").args(args).output().unwrap();
        for repository in &self.repositories {
            let listed = quietly(&["volume", "ls", "--quiet", "--filter", repository]);
            let own = |name: &&str| ["ft-env-", "ft-etc-", "ft-image-"].iter().any(|kind| name.starts_with(kind));
            for volume in String::from_utf8_lossy(&listed.stdout).lines().filter(own) {
                quietly(&["volume", "rm", volume]);
            }
        }
        if !self.recipe {
            quietly(&["rmi", "--force", &self.id]);
        }
    }
}
