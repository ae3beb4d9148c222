//! What these tests share: a repository whose lock pins an image of this machine's own files, and the engine's own client
//! as a witness from outside.

use crate::container;
use crate::harness::{Project, Report, eventually};
use std::process::Command;

/// What the engine's own client says.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The image of these tests as a lock names it: by the digest of its content.
pub fn pinned(image: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", image])
}

/// A copy with these tools whose lock pins the image.
pub fn project(tools: &[&str]) -> Project {
    let project = Project::with_tools(tools);
    let image = pinned(container::image());
    project.lock(|lock| lock["container"] = serde_json::json!({ "image": image })).commit();
    project
}

/// What of this repository's is in the engine: containers, and volumes of one run.
pub fn left(project: &Project) -> Vec<String> {
    let mine = format!("label=ft.repository={}", project.root.canonicalize().unwrap().display());
    let containers = docker(&["ps", "--all", "--quiet", "--filter", &mine]);
    let volumes = docker(&["volume", "ls", "--quiet", "--filter", &mine, "--filter", "name=ft-run-"]);
    containers.lines().chain(volumes.lines()).map(str::to_owned).collect()
}

/// Nothing of it is left, now or in a moment: an engine removes a container after it said that it ended.
pub fn leaves_nothing(project: &Project) {
    eventually("containers and volumes of this run are gone", || left(project).is_empty());
}

/// What stood, as the report has it.
pub fn wall<'a>(report: &'a Report, step: &str, name: &str) -> &'a serde_json::Value {
    let walls = report.step(step)["enforcement"].as_array().unwrap();
    walls.iter().find(|wall| wall["wall"] == name).unwrap_or_else(|| panic!("no {name} in {walls:#?}"))
}
