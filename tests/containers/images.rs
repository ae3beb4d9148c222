//! Images that were made for something else, or by somebody who means no good: what they say about users, programs,
//! variables and volumes reaches no step, and what can't be worked with is refused in one sentence before the steps.

use crate::container;
use crate::harness::Project;
use crate::shared::{Built, HERE, In, leaves_nothing, pinned, small};
use serde_json::json;

/// What a step can see of the image's configuration.
const SEE: &str = "import os, sys\nprint(sorted(os.environ.items()))\nprint(os.getcwd(), os.getuid(), os.getgid(), \
                   os.getgroups(), oct(os.umask(0)))\nprint(sys.path, sys.flags, sys.executable)\n\
                   print(sorted(os.listdir('/tmp')), os.access('/tmp', os.W_OK), os.path.expanduser('~'))\n\
                   import pwd; print(pwd.getpwuid(os.getuid()))";

fn seeing() -> Project {
    let project = small();
    let image = pinned(container::image());
    project.lock(|lock| {
        lock["container"] = json!({ "image": image });
        lock["tools"]["see"] = json!({"command": "python", "args": ["-c", SEE], "gate": "lint", "timeout_sec": 60});
    });
    project.commit();
    project
}

#[test]
fn what_an_image_says_about_its_programs_reaches_no_step() {
    let project = seeing();
    project.ft(&["run", "--container"]).leaves(0);
    let plain = project.read("artifacts/logs/see.log");
    assert!(plain.contains("/ft/work 1000 1000"), "{plain}");
    for lines in [
        "ENTRYPOINT [\"/nowhere\"]\nCMD [\"--nonsense\"]\nUSER 4321:1234\nWORKDIR /not/there\nSTOPSIGNAL SIGSTOP\n\
         HEALTHCHECK --interval=1s --retries=1 CMD false\nONBUILD RUN false\nSHELL [\"/nowhere\"]\nEXPOSE 80\n\
         LABEL ft.run=x ft.owner=y ft.boot=z ft.deadline=0 ft.repository=/\nVOLUME /data /tmp /var/tmp/ /dev/shm /etc",
        "USER ghost:nobody\nENV LD_PRELOAD=/nowhere.so LD_LIBRARY_PATH=/nowhere LD_AUDIT=/nowhere.so \
         PYTHONSTARTUP=/nowhere.py PYTHONPATH=/nowhere PYTHONHOME=/nowhere PYTHONINSPECT=1 PYTHONOPTIMIZE=2 BASH_ENV=/nowhere \
         ENV=/nowhere HOME=/nowhere TMPDIR=/nowhere TERM=nonsense LANG=xx_YY PYTEST_ADDOPTS=--nonsense \
         FT_ROOT=/nowhere FT_CELL=1 MALLOC_PERTURB_=1 IFS=/",
        "RUN [\"rm\", \"-r\", \"/tmp\", \"/var/tmp\", \"/etc/passwd\", \"/etc/group\", \"/etc/nsswitch.conf\", \
         \"/usr/bin/sh\", \"/root\", \"/home\", \"/run\"]",
    ] {
        let mut image = Built::on_top(lines);
        image.pin(&project);
        project.ft(&["run", "--container"]).leaves(0);
        let report = project.report();
        assert_eq!(report.step("pytest")["tests"]["passed"], 2, "{lines}");
        assert_eq!(report.0["environment"]["container"]["image"], json!(image.id));
        assert_eq!(project.read("artifacts/logs/see.log"), plain, "{lines}");
        leaves_nothing(&project);
    }
}

/// What an image has in `/etc` and at a declared volume is there, and nobody writes to the volume.
pub fn can_be_read_and_not_written(engine: &In) {
    let project = engine.at(small());
    let step = "import os\nprint(open('/data/said').read(), oct(os.stat('/data').st_mode), open('/etc/own').read())\n\
                try:\n    open('/data/more', 'w')\nexcept OSError as e:\n    print(e.strerror)";
    project.lock(|lock| {
        lock["tools"] = json!({"see": {"command": "python", "args": ["-c", step], "gate": "lint", "timeout_sec": 60}});
    });
    project.commit();
    // Its mode is not what keeps anybody from it.
    let data = "mkdir /data && chmod 777 /data && printf of-the-image > /data/said && printf own > /etc/own";
    let mut image = Built::on_top(&format!("RUN {data}\nVOLUME /data/../data"));
    engine.take(&image.id);
    image.pin(&project);
    project.ft(&["run", "--container"]).leaves(0);
    assert_eq!(project.read("artifacts/logs/see.log"), "of-the-image 0o40777 own\nRead-only file system\n");
    // The control: as the engine itself does it, anybody may.
    let write = "echo x > /data/more && ls /data";
    let said = engine.docker(&["run", "--rm", "--network", "none", "--user", "1000", &image.id, "sh", "-c", write]);
    assert_eq!(said, "more\nsaid");
    engine.leaves_nothing(&project);
}

#[test]
fn what_an_image_declares_as_a_volume_can_be_read_and_not_written() {
    can_be_read_and_not_written(&HERE);
}

/// It leaves before its steps with this status and code, and says this once.
fn refused(project: &Project, status: i32, code: &str, says: &str) {
    refused_in(&HERE, project, status, code, says);
}

fn refused_in(engine: &In, project: &Project, status: i32, code: &str, says: &str) {
    let ran = project.ft(&["run", "--container"]);
    ran.leaves(status).says(says).says(code);
    let report = project.report();
    assert_eq!(report.failures(), [code]);
    assert_eq!(report.started(), 0, "no step was started");
    let (message, _) = report.finding(code);
    assert!(message.contains(says) && !message.contains('\n') && message.len() < 300, "{message}");
    engine.leaves_nothing(project);
}

#[test]
fn an_image_with_a_volume_where_cells_have_their_places_is_refused() {
    let project = small();
    for (declared, place) in
        [("/ft", "/ft"), ("/x/../ft/env/", "/ft/env"), ("ft/work", "/ft/work"), ("/proc/1", "/proc/1")]
    {
        let mut image = Built::on_top(&format!("VOLUME {declared}"));
        image.pin(&project);
        refused(
            &project,
            105,
            "PARITY-052",
            &format!("the image declares a volume at {place}, where cells have their own places"),
        );
    }
}

/// What is made beside a program of the image's own that would be started as our agent, what is declared, and where that
/// leads.
const FORGED: [(&str, &str, &str); 7] = [
    ("ln -s /ft /data", "/data", "/ft"),
    ("mkdir -p /v/a && ln -s /ft /v/a/l", "/v /v/a/l/lib", "/ft/lib"),
    ("mv /ft /own && ln -s own /ft", "/own/lib", "/own/lib"),
    ("ln -s ft/lib /data", "/data", "/ft/lib"),
    ("ln -s / /data", "/data/ft/lib", "/ft/lib"),
    ("ln -s etc /data", "/data", "/etc"),
    ("mkdir /a && ln -s ../b /a/data && ln -s /proc /b", "/a/data/1", "/proc/1"),
];

/// No volume of an image stands where our agent is started from, whatever links lead to it.
pub fn takes_no_place_of_ours(engine: &In, cases: usize) {
    let project = engine.at(small());
    let forged =
        "mkdir -p /ft/lib && printf '#!/bin/sh\\necho forged' > /ft/lib/ft-agent && chmod 755 /ft/lib/ft-agent";
    for (link, declared, place) in &FORGED[..cases] {
        let mut image = Built::on_top(&format!("RUN {forged} && {link}\nVOLUME {declared}"));
        engine.take(&image.id);
        image.pin(&project);
        let called = declared.rsplit(' ').next().unwrap();
        let leads = if called == *place { String::new() } else { format!(", which leads to {place}") };
        let says = format!("a volume at {called}{leads}, where cells have their own places");
        refused_in(engine, &project, 105, "PARITY-052", &says);
    }
    let mut image = Built::on_top("RUN mkdir -p /b/x && ln -s b /data\nVOLUME /b /data/x");
    engine.take(&image.id);
    image.pin(&project);
    let ran = project.ft(&["run", "--container"]);
    ran.leaves(105).says("and by a link one is in the other").says("/data/x");
    // The control: one that leads to a place of the image's own is there, as everywhere, and so is one in another.
    let lines = "RUN mkdir -p /b/x /v/w && ln -s b /data~ä\nVOLUME /data~ä/x /data~ä/new /var/run/x /v /v/w";
    let mut image = Built::on_top(lines);
    engine.take(&image.id);
    image.pin(&project);
    project.ft(&["run", "--container"]).leaves(0);
    engine.leaves_nothing(&project);
}

#[test]
fn a_volume_behind_a_link_of_the_image_takes_no_place_of_ours() {
    takes_no_place_of_ours(&HERE, FORGED.len());
}

#[test]
fn an_image_for_another_architecture_is_refused() {
    use firsttry::cell::agents;
    let project = small();
    std::fs::create_dir(project.root.join("../root")).unwrap();
    let carried = agents::architectures().join(" and ");
    for other in ["riscv64", "arm64", "amd64"] {
        let says = match agents::agent(other) {
            own if own == agents::own() => continue,
            Some(_) => format!("the image is for {other}, and the engine's machine is "),
            None => format!("the image is for {other}, and this ft carries an agent for {carried} alone"),
        };
        let platform = format!("linux/{other}");
        let build = ["image", "build", "../root", "-o", "../image.tar", "--load", "--platform", &platform];
        let built = project.ft(&build);
        let mut image = Built::with_id(built.leaves(0).out.trim());
        image.pin(&project);
        refused(&project, 105, "PARITY-052", &says);
    }
}

#[test]
fn an_image_without_a_search_path_has_no_python() {
    let project = small();
    let mut image = Built::on_top("ENV PATH=\"\"");
    image.pin(&project);
    refused(&project, 101, "PARITY-003", "Python 3.11 is not in the image; no Python was found");
}

#[test]
fn an_image_without_the_python_of_the_lock_is_refused_also_where_there_is_nothing_but_our_agent() {
    let project = small();
    // Another C library and no place to write to; no file at all.
    for recipe in ["musl", "empty"] {
        let mut image = Built::of(recipe);
        image.pin(&project);
        refused(&project, 101, "PARITY-003", "Python 3.11 is not in the image; no Python was found");
    }
    let mut image = Built::of("py313");
    image.pin(&project);
    refused(&project, 101, "PARITY-003", "Python 3.11 is not in the image; found: 3.13.");
    // The control: the same image is one for another lock.
    project.lock(|lock| lock["python"] = "3.13".into()).commit();
    project.ft(&["run", "--container"]).leaves(0);
    assert_eq!(project.report().step("pytest")["tests"]["passed"], 2);
    leaves_nothing(&project);
}

#[test]
fn places_that_an_image_has_already_are_ours_or_the_image_is_refused() {
    let project = seeing();
    let image = pinned(container::image());
    project.lock(|lock| lock["container"] = json!({ "image": image })).commit();
    project.ft(&["run", "--container"]).leaves(0);
    let plain = project.read("artifacts/logs/see.log");
    for lines in [
        // Files that were there are covered, and modes are what they must be.
        "RUN mkdir -p /ft/work /ft/env/bin /ft/out /ft/project && touch /ft/work/conftest.py /ft/env/bin/python && ln -s /etc /ft/lib",
        "RUN chmod 0 /tmp /var/tmp /home",
        "RUN rm -r /var/tmp && ln -s ../tmp /var/tmp",
    ] {
        let mut image = Built::on_top(lines);
        image.pin(&project);
        project.ft(&["run", "--container"]).leaves(0);
        assert_eq!(project.read("artifacts/logs/see.log"), plain, "{lines}");
    }
    for (lines, says) in [
        ("RUN ln -s usr /ft", "/ft leads to /usr in this image"),
        ("RUN ln -s /nowhere /ft", "/ft leads to /nowhere in this image"),
        ("RUN rm -r /tmp && ln -s /usr /tmp", "/tmp leads to /usr in this image"),
        ("RUN rm -r /var/tmp && ln -s /usr /var/tmp", "/var/tmp leads to /usr in this image"),
    ] {
        let mut image = Built::on_top(lines);
        image.pin(&project);
        refused(&project, 105, "PARITY-052", &format!("{says}, and cells have their own places there"));
    }
}
