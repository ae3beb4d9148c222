//! The configuration of an image: as little as an engine needs, written in one form.

use super::canonical::canonical;
use crate::lock::image::{Digest, Platform};
use serde_json::{Map, Value, json};

/// What an image is made on.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// No other image: the platform, and variables as `NAME=VALUE`.
    New {
        /// For which machines.
        platform: Platform,
        /// Variables of every process.
        env: Vec<String>,
    },
    /// Another image, whose configuration is kept but for its layers and its time.
    Image(Value),
}

/// The configuration of an image with these layers, lowest first, made at `epoch` seconds.
#[must_use]
pub fn config_of(base: &Base, diff_ids: &[Digest], epoch: u64) -> Vec<u8> {
    let mut config = match base {
        Base::New { platform, env } => {
            let mut config = Map::new();
            config.insert("architecture".to_owned(), platform.architecture.clone().into());
            config.insert("config".to_owned(), if env.is_empty() { json!({}) } else { json!({ "Env": env }) });
            config.insert("os".to_owned(), platform.os.clone().into());
            if let Some(variant) = &platform.variant {
                config.insert("variant".to_owned(), variant.clone().into());
            }
            config
        }
        Base::Image(config) => {
            let mut config = config.as_object().cloned().unwrap_or_default();
            // What a build of Docker's adds of its own: the history has an entry per layer, and the rest is about the
            // container that the image was once committed from.
            for of_the_past in ["history", "container", "container_config", "docker_version", "parent", "id"] {
                config.shift_remove(of_the_past);
            }
            config
        }
    };
    let layers: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
    config.insert("created".to_owned(), time(epoch).into());
    config.insert("rootfs".to_owned(), json!({ "diff_ids": layers, "type": "layers" }));
    canonical(&Value::Object(config))
}

/// Seconds since 1970 as RFC 3339 writes them.
fn time(epoch: u64) -> String {
    let latest = jiff::Timestamp::MAX.as_second();
    let second = i64::try_from(epoch).unwrap_or(latest).min(latest);
    jiff::Timestamp::from_second(second).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_image_says_no_more_than_it_must() {
        let base = Base::New { platform: Platform::new("linux", "amd64", None), env: vec!["PATH=/bin".to_owned()] };
        let config = String::from_utf8(config_of(&base, &[Digest([0x11; 32])], 315_532_800)).unwrap();
        let layer = "11".repeat(32);
        assert_eq!(
            config,
            format!(
                r#"{{"architecture":"amd64","config":{{"Env":["PATH=/bin"]}},"created":"1980-01-01T00:00:00Z","os":"linux","rootfs":{{"diff_ids":["sha256:{layer}"],"type":"layers"}}}}"#
            )
        );
    }

    #[test]
    fn another_image_keeps_what_it_says_and_gets_new_layers() {
        let base = serde_json::json!({
            "created": "2020-02-02T02:02:02.2Z", "architecture": "arm64", "os": "linux", "history": [{}],
            "config": {"User": "nobody", "Env": ["A=b"]}, "rootfs": {"diff_ids": []}
        });
        let config = config_of(&Base::Image(base), &[], 0);
        assert_eq!(
            String::from_utf8(config).unwrap(),
            r#"{"architecture":"arm64","config":{"Env":["A=b"],"User":"nobody"},"created":"1970-01-01T00:00:00Z","os":"linux","rootfs":{"diff_ids":[],"type":"layers"}}"#
        );
        assert_eq!(time(u64::MAX), time(jiff::Timestamp::MAX.as_second() as u64));
    }
}
