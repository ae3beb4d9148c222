//! Locks between processes: `flock` on a file that stays, so that the kernel lets go of it whatever happens to its
//! owner. Who holds an exclusive lock writes into the file who it is.

use super::{PathError, Progress, Report, layout};
use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held, not used")] File);

fn open(path: &Path) -> Result<File, PathError> {
    if let Some(directory) = path.parent() {
        layout::create_dirs(directory)?;
    }
    File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(PathError::at(path))
}

fn outcome(path: &Path, result: Result<(), TryLockError>) -> Result<bool, PathError> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(PathError { path: path.to_path_buf(), source }),
    }
}

/// Takes the lock for itself alone if nobody holds it.
///
/// # Errors
/// The file can't be made or locked.
pub fn try_exclusive(path: &Path) -> Result<Option<Held>, PathError> {
    let mut file = open(path)?;
    if !outcome(path, file.try_lock())? {
        return Ok(None);
    }
    let owner = format!("pid {} since {}\n", std::process::id(), jiff::Timestamp::now().strftime("%H:%M:%S UTC"));
    let mut note = || {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(owner.as_bytes())
    };
    // Who holds it is a courtesy to those who wait; a full disk must not take the lock away.
    note().ok();
    Ok(Some(Held(file)))
}

/// Takes the lock for itself alone; waits for others and says so once.
///
/// # Errors
/// The file can't be made or locked.
pub async fn exclusive(path: &Path, what: &str, report: Report<'_>) -> Result<Held, PathError> {
    let mut said = false;
    loop {
        if let Some(held) = try_exclusive(path)? {
            return Ok(held);
        }
        if !said {
            let owner = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            report(Progress::Waiting { what: what.to_owned(), owner });
            said = true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Shares the lock with other users; `None` where somebody has it alone.
///
/// # Errors
/// The file can't be made or locked.
pub fn try_shared(path: &Path) -> Result<Option<Held>, PathError> {
    let file = open(path)?;
    Ok(outcome(path, file.try_lock_shared())?.then_some(Held(file)))
}
