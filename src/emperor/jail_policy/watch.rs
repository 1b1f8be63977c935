//! Notices that the policy's file has changed, so that a mistake in it is told when it is made.
//!
//! The file's directory is root's, so what happens in it is what an administrator does: a hint from another thread,
//! which means "look", costs nothing there. Tenants' directories are watched without a thread, by `source`.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// A watch on a policy's file.
#[derive(Debug)]
pub struct PolicyWatch {
    _watcher: RecommendedWatcher,
    changed: Arc<Notify>,
}

impl PolicyWatch {
    /// Watches the directory of the file: a new file may be put in the place of the old one.
    ///
    /// # Errors
    /// inotify_init1(2), inotify_add_watch(2).
    pub fn new(file: &Path) -> notify::Result<Self> {
        let changed = Arc::new(Notify::new());
        let (tell, name) = (Arc::clone(&changed), file.file_name().map(ToOwned::to_owned));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerns = event.map_or(true, |event| {
                event.need_rescan()
                    || is_change(event.kind)
                        && event.paths.iter().any(|path| path.file_name() == name.as_deref())
            });
            if concerns {
                tell.notify_one(); // any number of them are one
            }
        })?;
        let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, changed })
    }

    /// Waits until the file may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Whether the content or the name may be another one now. Reading is none, and half a file neither.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Create(_) | EventKind::Remove(_) => true,
        EventKind::Modify(kind) => !matches!(kind, notify::event::ModifyKind::Data(_)),
        EventKind::Any | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writing_and_replacing_are_noticed_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("policy.ini"), dir.path().join("other"));
        std::fs::write(&file, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let watch = PolicyWatch::new(&file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let heard = |within: u64| {
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(within), watch.changed()).await.is_ok()
            })
        };
        std::fs::read(&file).unwrap();
        std::fs::write(&other, "x").unwrap();
        assert!(!heard(200));
        std::fs::write(&file, "x").unwrap();
        assert!(heard(10_000));
        while heard(200) {} // one write is several events
        std::fs::rename(&other, &file).unwrap();
        assert!(heard(10_000));
    }
}
