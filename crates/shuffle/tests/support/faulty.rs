//! A disk that fails or hangs when it is told to: a FUSE file system that shows a directory, writes and deletes in it. A
//! process of its own serves it, so that whatever ends the test also ends the wait of all threads that hang.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};

const MOUNT_POINT: &str = "BELLOWS_TEST_DISK";
const SHOWN: &str = "BELLOWS_TEST_DISK_SHOWS";
/// Attributes and names stay in memory, as those of a real disk's do.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Works,
    /// No request is answered.
    Hangs,
    /// All is answered but syncs.
    SyncHangs,
    /// EIO.
    Fails,
    /// EROFS, as file systems become when their disk has failed them.
    ReadOnly,
}

const STATES: [(State, &str); 5] = [
    (State::Works, "works"),
    (State::Hangs, "hangs"),
    (State::SyncHangs, "sync-hangs"),
    (State::Fails, "fails"),
    (State::ReadOnly, "read-only"),
];

/// Mounted until it is dropped.
pub(crate) struct FaultyDisk {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
    pub(crate) path: PathBuf,
    /// The directory that it shows: what is written there is on the disk.
    pub(crate) shown: PathBuf,
}

/// Whether there is FUSE for this user; that there is none is told past the capture of what tests print.
pub(crate) fn is_possible() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        let told = writeln!(io::stderr(), "\n*** SKIPPED: NO TEST OF FAILING DISKS: /dev/fuse: {error} ***");
        told.expect("writes");
    }
    device.is_ok()
}

impl FaultyDisk {
    pub(crate) fn mount(dir: &Path, name: &str) -> FaultyDisk {
        let (path, shown) = (dir.join(name), dir.join(format!("{name}.shown")));
        for dir in [&path, &shown] {
            fs::create_dir_all(dir).expect("directory");
        }
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "disk_process", "--nocapture"])
            .env(MOUNT_POINT, &path)
            .env(SHOWN, &shown)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let said = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut disk = FaultyDisk { process, said, path, shown };
        disk.wait_for("mounted");
        // Whoever starts now finds the root in memory.
        fs::metadata(&disk.path).expect("works");
        disk
    }

    /// Returns when it is so.
    pub(crate) fn become_(&mut self, state: State) {
        let (_, word) = STATES.iter().find(|(named, _)| *named == state).expect("all are named");
        writeln!(self.process.stdin.as_ref().expect("piped"), "{word}").expect("the process lives");
        self.wait_for(word);
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.said.by_ref().map_while(Result::ok).any(|line| line == word);
        assert!(found, "the disk's process ended");
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // With the process ends every wait for the disk, in an error; none may be left when the test's threads are.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// What the test `disk_process` of a test program does when [`FaultyDisk`] runs it.
pub(crate) fn serve_if_asked() {
    let (Some(path), Some(shown)) = (std::env::var_os(MOUNT_POINT), std::env::var_os(SHOWN)) else { return };
    let kill = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(kill)).expect("any process may");
    let state = Arc::new((Mutex::new(State::Works), Condvar::new()));
    let files = HashMap::from([(INodeNo::ROOT.0, PathBuf::from(shown))]);
    let disk = Disk { state: state.clone(), files: Mutex::new(files) };
    let session = Session::new(disk, Path::new(&path), &Config::default()).expect("mounts");
    let _mounted = session.spawn().expect("starts");
    let say = |word: &str| io::stdout().write_all(format!("\n{word}\n").as_bytes()).expect("writes");
    say("mounted");
    for line in io::stdin().lines().map_while(Result::ok) {
        let (told, word) = STATES.iter().find(|(_, word)| *word == line).expect("a state");
        *state.0.lock().expect("no panic") = *told;
        state.1.notify_all();
        say(word);
    }
}

struct Disk {
    state: Arc<(Mutex<State>, Condvar)>,
    /// By inode number, which is that of the file shown but for the root.
    files: Mutex<HashMap<u64, PathBuf>>,
}

impl Disk {
    fn path(&self, inode: INodeNo) -> Result<PathBuf, Errno> {
        let (state, changed) = &*self.state;
        let state = changed.wait_while(state.lock().expect("no panic"), |state| *state == State::Hangs);
        if *state.expect("no panic") == State::Fails {
            return Err(Errno::EIO);
        }
        self.files.lock().expect("no panic").get(&inode.0).cloned().ok_or(Errno::ESTALE)
    }

    fn changed_path(&self, inode: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        let path = self.path(inode)?.join(name);
        if *self.state.0.lock().expect("no panic") == State::ReadOnly {
            return Err(Errno::EROFS);
        }
        Ok(path)
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.path(parent)?.join(name);
        let found = path.symlink_metadata()?;
        self.files.lock().expect("no panic").insert(found.ino(), path);
        Ok(attributes(INodeNo(found.ino()), &found))
    }

    fn read_some(&self, inode: INodeNo, offset: u64, bytes: u32) -> Result<Vec<u8>, Errno> {
        let file = File::open(self.path(inode)?)?;
        let mut buffer = vec![0; bytes as usize];
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        buffer.truncate(done);
        Ok(buffer)
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(found) => reply.entry(&KEPT, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(inode).and_then(|path| Ok(path.symlink_metadata()?)) {
            Ok(found) => reply.attr(&KEPT, &attributes(inode, &found)),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.path(inode) {
            // To close a file that was read waits for no real disk.
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_some(inode, offset, bytes) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match self.path(inode).and_then(|path| Ok(fs::read_dir(path)?)) {
            Ok(entries) => entries.map_while(Result::ok),
            Err(error) => return reply.error(error),
        };
        for (at, entry) in entries.enumerate().skip(offset as usize) {
            let Ok(found) = entry.metadata() else { continue };
            if reply.add(INodeNo(found.ino()), at as u64 + 1, kind(&found), entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.changed_path(parent, name).and_then(|path| {
            File::create(path)?;
            self.look_up(parent, name)
        });
        match made {
            Ok(made) => {
                reply.created(&KEPT, &made, Generation(0), FileHandle(0), FopenFlags::FOPEN_NOFLUSH);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self
            .path(inode)
            .and_then(|path| Ok(File::options().write(true).open(path)?.write_all_at(data, offset)?));
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.path(inode).and_then(|path| {
            if let Some(size) = size {
                File::options().write(true).open(&path)?.set_len(size)?;
            }
            Ok(path.symlink_metadata()?)
        });
        match changed {
            Ok(changed) => reply.attr(&KEPT, &attributes(inode, &changed)),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // On a thread of its own: what comes behind a sync does not wait for it.
        let state = self.state.clone();
        match self.path(inode) {
            Ok(_) => drop(std::thread::spawn(move || {
                let (state, changed) = &*state;
                let state = state.lock().expect("no panic");
                drop(changed.wait_while(state, |state| *state == State::SyncHangs).expect("no panic"));
                reply.ok();
            })),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.changed_path(parent, name).and_then(|from| {
            let to = self.path(new_parent)?.join(new_name);
            fs::rename(&from, &to)?;
            // Who has it open finds it by its number.
            let inode = to.symlink_metadata()?.ino();
            self.files.lock().expect("no panic").insert(inode, to);
            Ok(())
        });
        match renamed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.changed_path(parent, name).and_then(|path| Ok(fs::remove_file(path)?)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.changed_path(parent, name).and_then(|path| Ok(fs::remove_dir(path)?)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

fn kind(of: &Metadata) -> FileType {
    if of.is_dir() { FileType::Directory } else { FileType::RegularFile }
}

fn attributes(inode: INodeNo, of: &Metadata) -> FileAttr {
    let modified = of.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: inode,
        size: of.size(),
        blocks: of.blocks(),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: kind(of),
        perm: (of.mode() & 0o7777) as u16,
        nlink: of.nlink() as u32,
        uid: of.uid(),
        gid: of.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
