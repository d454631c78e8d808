//! `getent` as a child process: the machine's name service, with all its modules, outside of this process.
use crate::Sources;
use bellows_syscall::open_pidfd;
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::Pid,
};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Time for one answer, and for the wait for a place.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a child is looked at where it cannot be watched.
const POLL: Duration = Duration::from_millis(50);
/// A user of LDAP may be in thousands of groups, and a group may have thousands of members.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// Children at once; who asks for more waits. Half of them are for users alone.
const MAX_CHILDREN: usize = 8;
/// Time that a killed child has to end before it is left to itself.
const DEATH: Duration = Duration::from_secs(1);
/// Killed children that have not ended; with more of them nobody is asked.
const MAX_UNREAPED: usize = 64;
/// Answers are kept for so long: a task's user is looked up more than once, and often many tasks start at once.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Who asks again and again for what fails does not start a child each time.
const FAILURE_KEPT_FOR: Duration = Duration::from_secs(1);
const MAX_KEPT: usize = 256;
const MAX_KEPT_BYTES: usize = 16 << 10;

type Question = (PathBuf, Vec<String>);

impl Sources {
    /// The lines that `getent DATABASE KEY…` prints; none where the machine has no other source than its files. Blocks
    /// for up to 10 s.
    pub(crate) fn getent(&self, database: &str, keys: &[&str], asker: Asker) -> io::Result<String> {
        let Some(program) = self.getent.as_ref().filter(|_| self.has_more_than_files(database)) else {
            return Ok(String::new());
        };
        // Keys are never taken for options.
        let arguments: Vec<String> =
            [database, "--"].iter().chain(keys).map(|part| part.to_string()).collect();
        let question = (program.clone(), arguments);
        let answer = self.questions.answer(question, asker, |question| {
            ask(question, TIMEOUT).map_err(|why| (why.kind(), why.to_string()))
        });
        answer.map_err(|(kind, why)| io::Error::new(kind, why))
    }

    /// Whether nsswitch.conf names a service that this process does not read itself. Without the file, or the line,
    /// glibc has its files and DNS.
    fn has_more_than_files(&self, database: &str) -> bool {
        let (lines, own): (&[&str], &[&str]) = match database {
            "ahosts" => (&["hosts:"], &["files", "dns"]),
            "initgroups" => (&["initgroups:", "group:"], &["files"]),
            "group" => (&["group:"], &["files"]),
            _ => (&["passwd:"], &["files"]),
        };
        let configuration = self.text("nsswitch.conf");
        let services = |name: &str| {
            let mut lines = configuration.lines().map(|line| line.split('#').next().unwrap_or_default());
            lines.find_map(|line| line.trim().strip_prefix(name))
        };
        let services = lines.iter().find_map(|name| services(name)).unwrap_or_default();
        services.split_whitespace().any(|service| !service.starts_with('[') && !own.contains(&service))
    }
}

/// Who asks, which decides how many others may be under way, and whether a free place is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A task is to start as a user.
    Task,
    /// A host is looked up. Tasks name hosts, so this leaves places for users.
    Host,
    /// A listing has numbers and would have names; peers ask for listings as often as they like.
    Listing,
}

impl Asker {
    fn places(self) -> usize {
        match self {
            Self::Task => MAX_CHILDREN,
            Self::Host | Self::Listing => MAX_CHILDREN / 2,
        }
    }
}

/// An answer, or why there was none: as a kind and a text, which can be kept.
type Answer = Result<String, (io::ErrorKind, String)>;

#[derive(Debug, Default)]
struct Asked {
    under_way: HashSet<Question>,
    kept: HashMap<Question, (Instant, Answer)>,
}

impl Asked {
    fn kept(&self, question: &Question) -> Option<Answer> {
        let (when, answer) = self.kept.get(question)?;
        (when.elapsed() < kept_for(answer)).then(|| answer.clone())
    }

    fn keep(&mut self, question: Question, answer: &Answer) {
        self.kept.retain(|_, (when, answer)| when.elapsed() < kept_for(answer));
        let is_short = answer.as_ref().is_ok_and(|answer| answer.len() <= MAX_KEPT_BYTES) || answer.is_err();
        if is_short && self.kept.len() < MAX_KEPT {
            self.kept.insert(question, (Instant::now(), answer.clone()));
        }
    }
}

fn kept_for(answer: &Answer) -> Duration {
    if answer.is_ok() { KEPT_FOR } else { FAILURE_KEPT_FOR }
}

/// What is asked, and what was asked lately.
#[derive(Debug)]
pub(crate) struct Questions {
    asked: Mutex<Option<Asked>>,
    settled: Condvar,
}

impl Questions {
    pub(crate) const fn new() -> Self {
        Self { asked: Mutex::new(None), settled: Condvar::new() }
    }

    /// Asks with `ask`, unless there is an answer already; who asks the same at the same time shares one.
    fn answer(&self, question: Question, asker: Asker, ask: impl FnOnce(&Question) -> Answer) -> Answer {
        let deadline = Instant::now() + TIMEOUT;
        let mut asked = self.asked.lock();
        loop {
            let all = asked.get_or_insert_default();
            if let Some(answer) = all.kept(&question) {
                return answer;
            }
            let is_asked = all.under_way.contains(&question);
            if !is_asked && all.under_way.len() < asker.places() {
                all.under_way.insert(question.clone());
                break;
            }
            if asker == Asker::Listing || self.settled.wait_until(&mut asked, deadline).timed_out() {
                return Err((io::ErrorKind::TimedOut, "too many lookups wait for getent already".into()));
            }
        }
        drop(asked);
        let place = Place { questions: self, question: &question };
        let answer = ask(&question);
        self.asked.lock().get_or_insert_default().keep(question.clone(), &answer);
        drop(place);
        answer
    }
}

/// The right to run one child for one question.
struct Place<'a> {
    questions: &'a Questions,
    question: &'a Question,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.questions.asked.lock().get_or_insert_default().under_way.remove(self.question);
        self.questions.settled.notify_all();
    }
}

/// Children that were killed and have not ended: they wait in the kernel, for a disk or a server.
static UNREAPED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Ends with the child: it is killed when it takes too long or says too much.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // It may have ended already; in any case it is reaped.
        let _ = child.kill();
        let deadline = Instant::now() + DEATH;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                UNREAPED.lock().push(child);
                return;
            }
            std::thread::sleep(DEATH / 100);
        }
    }
}

fn ask((program, arguments): &Question, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    let unreaped = {
        let mut unreaped = UNREAPED.lock();
        unreaped.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        unreaped.len()
    };
    if unreaped >= MAX_UNREAPED {
        return Err(said(program, &format!("hangs: {unreaped} of them cannot even be killed")));
    }
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut running = Killed(Some(child.map_err(|why| said(program, &why.to_string()))?));
    let child = running.0.as_mut().expect("invariant: it is taken when this is dropped");
    let (output, ended) = read_until_end(child, deadline).map_err(|why| said(program, &why.to_string()))?;
    // Who said too much is killed, and what was heard counts. 2: a key was not found; the others are printed all the same.
    let code = if ended { child.wait()?.code() } else { Some(0) };
    match code {
        Some(0 | 2) => Ok(String::from_utf8_lossy(&output).into_owned()),
        Some(code) => Err(said(program, &format!("ended with {code}"))),
        None => Err(said(program, "was killed by a signal")),
    }
}

fn said(program: &std::path::Path, what: &str) -> io::Error {
    io::Error::other(format!("{} {what}", program.display()))
}

/// Reads until the child has ended (`true`), whoever else may hold its standard output open, or has said too much.
fn read_until_end(child: &mut Child, deadline: Instant) -> io::Result<(Vec<u8>, bool)> {
    let ended = open_pidfd(Pid::from_child(child))?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    fcntl_setfl(&stdout, fcntl_getfl(&stdout)? | OFlags::NONBLOCK)?;
    let mut output = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "has not answered in time"));
        }
        let wait = if ended.is_some() { left } else { left.min(POLL) };
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds: Vec<PollFd<'_>> = ended.iter().map(|ended| PollFd::new(ended, PollFlags::IN)).collect();
        if open {
            fds.push(PollFd::new(&stdout, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = match ended {
            Some(_) => !fds[0].revents().is_empty(),
            None => child.try_wait()?.is_some(),
        };
        if open && drain(&mut stdout, &mut output)? {
            open = false;
        }
        if has_ended || output.len() >= MAX_OUTPUT_BYTES {
            output.truncate(MAX_OUTPUT_BYTES);
            return Ok((output, has_ended));
        }
    }
}

/// `true`: nothing more will come.
fn drain(from: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    while into.len() < MAX_OUTPUT_BYTES {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(true)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// A machine with these files below `/etc`, and a `getent` that is this shell script.
    pub(crate) fn machine(files: &[(&str, &str)], getent: Option<&str>) -> (TempDir, Sources) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("written");
        }
        let program = dir.path().join("getent");
        if let Some(script) = getent {
            // Written by another process: a child that another test's thread forks meanwhile would hold it open, and
            // what is open for writing cannot be executed.
            let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
            let mut shell = Command::new("sh");
            let written = shell.arg("-c").arg(write).arg(&program).arg(script).status().expect("sh runs");
            assert!(written.success());
        }
        let sources = Sources { etc: dir.path().into(), getent: getent.map(|_| program), questions: fresh() };
        (dir, sources)
    }

    const LDAP: (&str, &str) =
        ("nsswitch.conf", "passwd: files ldap # x\ngroup: files [!UNAVAIL=return] ldap\n");

    #[test]
    fn keys_are_no_options() {
        let (_dir, sources) = machine(&[LDAP], Some("echo \"$@\""));
        assert_eq!(sources.getent("passwd", &["-s", "x"], Asker::Task).expect("ran"), "passwd -- -s x\n");
    }

    #[test]
    fn nobody_is_asked_where_the_files_are_all_there_is() {
        for nsswitch in
            ["", "passwd: files\ngroup: files [NOTFOUND=return]\nhosts: files dns\n", "# passwd: ldap"]
        {
            let (_dir, sources) = machine(&[("nsswitch.conf", nsswitch)], Some("echo asked"));
            for database in ["passwd", "group", "initgroups", "ahosts"] {
                assert_eq!(
                    sources.getent(database, &["x"], Asker::Task).expect("no error"),
                    "",
                    "{nsswitch} {database}"
                );
            }
        }
        let (_dir, sources) = machine(&[LDAP], Some("echo asked"));
        assert_eq!(sources.getent("initgroups", &["x"], Asker::Task).expect("ran"), "asked\n");
        assert_eq!(
            machine(&[LDAP], None).1.getent("passwd", &["x"], Asker::Task).expect("no getent, no answer"),
            ""
        );
    }

    #[test]
    fn answers_are_the_same_without_pidfds() {
        bellows_testkit::on_older_machines(|| {
            keys_are_no_options();
            an_end_that_is_no_answer_is_an_error();
            endless_output_is_cut();
        });
    }

    #[test]
    fn an_end_that_is_no_answer_is_an_error() {
        let (_dir, sources) = machine(&[LDAP], Some("exit 2"));
        assert_eq!(sources.getent("passwd", &["x"], Asker::Task).expect("not found"), "");
        for script in ["exit 1", "kill -9 $$"] {
            let (_dir, sources) = machine(&[LDAP], Some(script));
            assert!(sources.getent("passwd", &["x"], Asker::Task).is_err(), "{script}");
        }
    }

    #[test]
    fn endless_output_is_cut() {
        let (_dir, sources) = machine(&[LDAP], Some("exec yes"));
        assert_eq!(sources.getent("passwd", &["x"], Asker::Task).expect("cut").len(), MAX_OUTPUT_BYTES);
    }

    #[test]
    fn who_inherits_the_output_is_not_waited_for() {
        let (dir, sources) = machine(&[LDAP], Some("sleep 60 & echo $! > $0.pid; echo answer"));
        assert_eq!(sources.getent("passwd", &["x"], Asker::Task).expect("ended"), "answer\n");
        let pid = fs::read_to_string(dir.path().join("getent.pid")).expect("written");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it still ran");
    }

    #[test]
    fn silence_has_a_bound() {
        let (_dir, sources) = machine(&[LDAP], Some("exec sleep 600"));
        let program = sources.getent.expect("there is one");
        let error = ask(&(program, vec![]), Duration::from_millis(20)).expect_err("given up");
        assert!(error.to_string().contains("has not answered in time"), "{error}");
    }

    fn question(name: &str) -> Question {
        (PathBuf::from("getent"), vec![name.to_owned()])
    }

    /// No other test's questions are among them.
    fn fresh() -> &'static Questions {
        Box::leak(Box::new(Questions::new()))
    }

    #[test]
    fn a_flood_of_listings_leaves_places_for_users() {
        let (questions, places) = (fresh(), Asker::Listing.places());
        assert!(places * 2 <= MAX_CHILDREN);
        // None of them ends before the user's.
        let barrier = std::sync::Barrier::new(places + 1);
        let ended = std::sync::Barrier::new(places + 1);
        std::thread::scope(|scope| {
            for number in 0..places {
                let (barrier, ended) = (&barrier, &ended);
                scope.spawn(move || {
                    questions.answer(question(&number.to_string()), Asker::Listing, |_| {
                        barrier.wait();
                        ended.wait();
                        Ok(String::new())
                    })
                });
            }
            barrier.wait();
            let refused = questions.answer(question("one more"), Asker::Listing, |_| panic!("it was asked"));
            let user = questions.answer(question("ann"), Asker::Task, |_| Ok("ann".into()));
            ended.wait();
            assert!(refused.is_err());
            assert_eq!(user, Ok("ann".into()));
        });
    }

    #[test]
    fn equal_questions_share_an_answer_and_failures_are_kept_for_a_moment() {
        let questions = fresh();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let answer = questions.answer(question("ann"), Asker::Task, |_| {
                        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Err((io::ErrorKind::Other, "no".into()))
                    });
                    assert!(answer.is_err());
                });
            }
        });
        assert_eq!(asked.into_inner(), 1);
    }
}
