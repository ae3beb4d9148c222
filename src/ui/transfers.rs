//! Bytes on their way to or from an engine: a live line for each thing, where there is a terminal to show it.

use super::Style;
use super::live::Live;
use indicatif::ProgressDrawTarget;

/// The lines of one transfer. Gone when dropped.
pub struct Transfers {
    live: Option<Live>,
}

impl Transfers {
    /// Lines for whoever listens to standard error.
    #[must_use]
    pub fn new(style: &Style) -> Transfers {
        let shown = style.terminal && !style.quiet;
        Transfers { live: shown.then(|| Live::new(ProgressDrawTarget::stderr())) }
    }

    /// Says how far one thing is; `total` is 0 where nobody knows.
    pub fn show(&mut self, name: &str, text: &str, done: u64, total: u64) {
        let Some(live) = &mut self.live else { return };
        let text = format!("{name} {text}");
        if total > 0 { live.measure(name, text, done, total) } else { live.show(name, text) }
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.live.iter_mut().for_each(Live::clear);
    }
}
