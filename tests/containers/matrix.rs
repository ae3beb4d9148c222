//! Every Python of the lock in its own image: a report for each, one summary, one verdict.

use crate::harness::Project;
use crate::recipes::images_make;
use crate::shared::{leaves_nothing, small};
use serde_json::{Value, json};

/// Two Pythons and the images of both; a third one has none.
fn two_pythons() -> Project {
    let (older, newer) = (images_make("py311"), images_make("py313"));
    let project = small();
    project.lock(|lock| {
        lock["matrix"] = json!({"python": ["3.11", "3.13", "3.14"]});
        lock["container"] = json!({"image": older, "images": {"3.13": {"image": newer}}});
        lock["tools"]["pytest"]["args"] = json!(["-q", "-s", "tests"]);
    });
    project.write(
        "tests/test_which.py",
        "import sys\n\n\ndef test_which():\n    print('here is', sys.version_info[:2])\n",
    );
    project.commit();
    project
}

/// What `--json` prints: the reports, in the order of the matrix.
fn reports(out: &str) -> Vec<Value> {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn every_python_of_the_matrix_has_a_report_and_one_red_one_is_the_verdict() {
    let project = two_pythons();
    let run = ["run", "--matrix", "--container", "--json"];
    let ran = project.ft(&run);
    ran.leaves(0);
    for line in ["Python 3.11: exit 0", "Python 3.13: exit 0", "Python 3.14: no image in the lock, not run"] {
        assert_eq!(ran.err.matches(line).count(), 1, "{line}: {}", ran.err);
    }
    let both = reports(&ran.out);
    let pythons: Vec<&str> = both.iter().map(|report| report["python"].as_str().unwrap()).collect();
    assert!(pythons.len() == 2 && pythons[0].starts_with("3.11.") && pythons[1].starts_with("3.13."), "{pythons:?}");
    let images: Vec<&Value> = both.iter().map(|report| &report["environment"]["container"]["image"]).collect();
    assert_ne!(images[0], images[1]);
    for report in &both {
        assert_eq!((&report["ok"], &report["exit_code"]), (&json!(true), &json!(0)));
        assert_eq!(report["steps"][0]["tests"]["passed"], 3);
    }
    // All were good: what is published is the last one's.
    assert_eq!(project.report().0["python"], both[1]["python"]);
    assert!(project.read("artifacts/logs/pytest.log").contains("here is (3, 13)"));
    leaves_nothing(&project);

    // Red with the first one, and with the last one: red.
    for (red, place) in [("(3, 11)", 0), ("(3, 13)", 1)] {
        project.write(
            "tests/test_which.py",
            format!("import sys\n\n\ndef test_which():\n    print('here is', sys.version_info[:2])\n    assert sys.version_info[:2] != {red}\n"),
        );
        project.commit();
        let ran = project.ft(&run);
        ran.leaves(221);
        let both = reports(&ran.out);
        let codes: Vec<u64> = both.iter().map(|report| report["exit_code"].as_u64().unwrap()).collect();
        assert_eq!((codes.len(), codes[place], codes[1 - place]), (2, 221, 0));
        let good = ["3.11", "3.13"][1 - place];
        assert!(ran.err.contains(&format!("Python {good}: exit 0")), "{}", ran.err);
        // The one that failed is what stands there to be looked at.
        assert_eq!(project.report().0["python"], both[place]["python"]);
        assert!(project.read("artifacts/logs/pytest.log").contains(&format!("here is {red}")));
        leaves_nothing(&project);
    }
}
