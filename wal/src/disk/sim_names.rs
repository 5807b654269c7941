//! The name space of the simulated disk, and the changes to it that are not durable yet. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sim_file::Inode;

/// One change of the name space that no `sync_dir` has covered yet.
#[derive(Clone)]
pub(super) enum NameChange {
    Put(PathBuf, Arc<Inode>),
    MakeDir(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    pub(super) fn touches(&self, directory: &Path) -> bool {
        match self {
            Self::Put(path, _) | Self::MakeDir(path) | Self::Remove(path) => path.parent() == Some(directory),
            Self::Rename(from, to) => from.parent() == Some(directory) || to.parent() == Some(directory),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Names {
    pub(super) files: BTreeMap<PathBuf, Arc<Inode>>,
    pub(super) directories: BTreeSet<PathBuf>,
}

impl Names {
    pub(super) fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Put(path, inode) => {
                self.files.insert(path.clone(), Arc::clone(inode));
            }
            NameChange::MakeDir(path) => {
                self.directories.insert(path.clone());
            }
            NameChange::Remove(path) => {
                self.files.retain(|name, _| !name.starts_with(path));
                self.directories.retain(|name| !name.starts_with(path));
            }
            NameChange::Rename(from, to) => self.rename(from, to),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved = |name: &Path| match name.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => Some(to.to_path_buf()),
            Ok(rest) => Some(to.join(rest)),
            Err(_) => None,
        };
        let names: Vec<_> = self.files.keys().filter(|name| name.starts_with(from)).cloned().collect();
        for name in names {
            let inode = self.files.remove(&name).expect("just listed");
            self.files.insert(moved(&name).expect("starts with it"), inode);
        }
        let names: Vec<_> = self.directories.iter().filter(|name| name.starts_with(from)).cloned().collect();
        for name in names {
            self.directories.remove(&name);
            self.directories.insert(moved(&name).expect("starts with it"));
        }
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path) || self.directories.contains(path)
    }
}
