//! What git tells a `pre-push` hook on standard input. Pure.

/// One ref that is being pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedRef {
    /// What was named on the command line: `refs/heads/main`, `HEAD~1`, `:/some words`.
    pub local_ref: String,
    /// The object that is pushed: a commit, or an annotated tag.
    pub local_oid: String,
    /// Its name on the other side.
    pub remote_ref: String,
    /// What the other side has; `None` for a name that is new there.
    pub remote_oid: Option<String>,
}

impl PushedRef {
    /// What a hook framework says is pushed: an object, and the branch where it knows one.
    #[must_use]
    pub fn of_framework(oid: &str, branch: &str) -> PushedRef {
        PushedRef {
            local_ref: if branch.is_empty() { "named by the hook framework".to_owned() } else { branch.to_owned() },
            local_oid: oid.to_owned(),
            remote_ref: String::new(),
            remote_oid: None,
        }
    }
}

/// Reads githooks(5), pre-push: `LOCAL OBJECT REMOTE OBJECT`, one line per ref. A deletion pushes nothing and is left
/// out. The local name may hold spaces, so a line is read from its end.
///
/// # Errors
/// The line that is not of that form: what can't be read must not count as checked.
pub fn parse_pre_push(stdin: &str) -> Result<Vec<PushedRef>, UnreadablePush> {
    let mut pushed = Vec::new();
    for line in stdin.lines().filter(|line| !line.is_empty()) {
        let mut words = line.rsplitn(4, ' ');
        let (Some(theirs), Some(remote), Some(object), Some(local)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(UnreadablePush(line.to_owned()));
        };
        if !is_object(theirs) || !is_object(object) {
            return Err(UnreadablePush(line.to_owned()));
        }
        if !is_zero(object) {
            pushed.push(PushedRef {
                local_ref: local.to_owned(),
                local_oid: object.to_owned(),
                remote_ref: remote.to_owned(),
                remote_oid: (!is_zero(theirs)).then(|| theirs.to_owned()),
            });
        }
    }
    Ok(pushed)
}

/// A line that is not of the documented form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("git's list of pushed refs holds a line that can't be read: {0:?}")]
pub struct UnreadablePush(pub String);

fn is_object(word: &str) -> bool {
    matches!(word.len(), 40 | 64) && word.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_zero(word: &str) -> bool {
    word.bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn new_changed_and_deleted_refs_are_told_apart() {
        let (a, b, zero) = ("a".repeat(40), "b".repeat(40), "0".repeat(40));
        let stdin = format!(
            "refs/heads/main {a} refs/heads/main {b}\nrefs/heads/new {a} refs/heads/new {zero}\n\
             (delete) {zero} refs/heads/old {b}\n:/two words {b} refs/heads/x {zero}\n"
        );
        let pushed = parse_pre_push(&stdin).unwrap();
        assert_eq!(pushed.len(), 3);
        assert_eq!((&*pushed[0].local_oid, pushed[0].remote_oid.as_deref()), (&*a, Some(&*b)));
        assert_eq!((&*pushed[1].remote_ref, pushed[1].remote_oid.as_deref()), ("refs/heads/new", None));
        assert_eq!((&*pushed[2].local_ref, &*pushed[2].local_oid), (":/two words", &*b));
    }

    #[test]
    fn nothing_pushed_is_nothing() {
        assert_eq!(parse_pre_push(""), Ok(vec![]));
    }

    #[test]
    fn a_line_that_can_not_be_read_is_not_passed_over() {
        for line in ["main", "refs/heads/main abc refs/heads/main abc"] {
            assert_eq!(parse_pre_push(line), Err(UnreadablePush(line.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_panics(text in ".*") {
            let _ = parse_pre_push(&text);
        }
    }
}
