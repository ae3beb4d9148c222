//! Live lines at the foot of a terminal: one per running step and stage. Knows nothing of outcomes.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;

/// The lines.
#[derive(Clone)]
pub(super) struct Live {
    lines: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Live {
    pub(super) fn new(target: ProgressDrawTarget) -> Live {
        Live { lines: MultiProgress::with_draw_target(target), bars: HashMap::new() }
    }

    /// Prints a line above the live ones.
    pub(super) fn say(&self, line: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = self.lines.println(line);
    }

    /// Shows a line, or changes it. Cut at the terminal's width.
    pub(super) fn show(&mut self, name: &str, text: String) {
        let bar = self.bar(name);
        bar.set_style(template("{wide_msg}"));
        bar.set_message(text);
    }

    /// Shows a line with how much of `total` is done.
    pub(super) fn measure(&mut self, name: &str, text: String, done: u64, total: u64) {
        let bar = self.bar(name);
        bar.set_style(template("{bar:20} {wide_msg}").progress_chars("##-"));
        bar.set_length(total);
        bar.set_position(done.min(total));
        bar.set_message(text);
    }

    /// Takes a line away.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(bar) = self.bars.remove(name) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
    }

    /// Takes all lines away.
    pub(super) fn clear(&mut self) {
        for name in self.bars.keys().cloned().collect::<Vec<_>>() {
            self.remove(&name);
        }
        let _ = self.lines.clear();
    }

    fn bar(&mut self, name: &str) -> &ProgressBar {
        self.bars.entry(name.to_owned()).or_insert_with(|| self.lines.add(ProgressBar::new(0)))
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates of this file are well formed")
}
