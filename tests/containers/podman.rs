//! The same runs in Podman as it is installed: by root without a right to raise limits, and by an ordinary user.

use crate::harness::Project;
use crate::private::Private;
use crate::shared::{In, wall};
use crate::{images, runs};
use serde_json::json;

#[test]
fn podman_does_what_docker_does_and_the_report_names_it() {
    let podman = Private::podman();
    let host = podman.host();
    let engine = In::private(&host);
    let project = runs::passes(&engine);
    let named = project.report().0["environment"]["container"]["engine"].as_str().unwrap().to_owned();
    assert!(named.starts_with("Podman ") && named.ends_with(&host), "{named}");
    runs::both_say_the_same(&engine);
    runs::is_named(&engine);
    runs::dies_of_memory(&engine);
    runs::is_ended(&engine);
    runs::leaves_no_container(&engine);
    // Podman looks at the files of a container in another way.
    images::can_be_read_and_not_written(&engine);
    images::takes_no_place_of_ours(&engine, 3);
    // What a run needs and this engine can't hold is said before anything starts.
    project.lock(|lock| lock["resource_limits"] = json!({"disk_mb": 64, "required": true})).commit();
    project.ft(&["run", "--container"]).leaves(105).says("PARITY-052").says("limit of disk (Podman ");
    // All that stays is what runs share, and it goes when nobody wants it.
    let volumes = || engine.docker(&["volume", "ls", "--quiet"]);
    assert!(volumes().contains("ft-env-") && volumes().lines().all(|name| name.starts_with("ft-")), "{}", volumes());
    // From a repository of its own: what the other tests share on the host is no less shared.
    let other = Project::empty();
    other.git(&["init", "-q"]);
    let other = other.var("FT_CACHE_DIR", "cache").var("DOCKER_HOST", &host);
    other.ft(&["gc", "--keep-mb", "0"]).leaves(0).says("shared volumes");
    assert_eq!(volumes(), "");
}

#[test]
fn podman_of_an_ordinary_user_does_so_too_and_no_limit_is_pretended() {
    let podman = Private::rootless_podman();
    let host = podman.host();
    let engine = In::private(&host);
    runs::is_named(&engine);
    runs::is_ended(&engine);
    runs::leaves_no_container(&engine);
    // The second version of control groups can be delegated, and the machine decides whether it is.
    let delegable = engine.docker(&["info", "--format", "{{.CgroupVersion}}"]) == "2";
    let project = engine.project(&["pytest"]);
    let run = |required: bool| {
        project.lock(|lock| lock["resource_limits"] = json!({"mem_mb": 512, "pids": 200, "required": required}));
        project.commit();
        project.ft(&["run", "--container"])
    };
    let ran = run(false);
    ran.leaves(0);
    let report = project.report();
    let unheld = ["memory", "pids"].into_iter().filter(|name| wall(&report, "pytest", name)["enforced"] == false);
    let unheld = unheld.collect::<Vec<_>>().join(", ");
    if delegable && unheld.is_empty() {
        run(true).leaves(0);
    } else {
        assert!(delegable || unheld == "memory, pids", "{unheld}");
        ran.says(&format!("not enforced: {unheld}"));
        let refused = run(true);
        refused.leaves(105).says("PARITY-052").says(&format!("limit of {unheld} (Podman "));
        if !delegable {
            refused.says("it runs without root");
        }
    }
    engine.leaves_nothing(&project);
}
