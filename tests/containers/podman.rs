//! The same runs in Podman: as it is installed, by root, and without a right to raise limits.

use crate::harness::Project;
use crate::private::Private;
use crate::runs;
use crate::shared::In;

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
    // What a run needs and this engine can't hold is said before anything starts.
    project.lock(|lock| lock["resource_limits"] = serde_json::json!({"disk_mb": 64, "required": true})).commit();
    project.ft(&["run", "--container"]).leaves(105).says("PARITY-052").says("limit of disk");
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
