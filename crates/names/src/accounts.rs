//! Users and groups: from the files first, then from whatever `getent` knows.
use crate::{LookupError, Sources, getent::Asker};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// Groups of a user at most: Linux's own limit.
const MAX_GROUPS: usize = 65_536;
/// Numbers in one listing that are in no file and are asked for; others stay numbers.
const MAX_ASKED: usize = 64;
const MAX_NAME_BYTES: usize = 256;

/// A user's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
}

/// Looks up the user `name`; `None`: there is none. A number is a name like any other, as for Mesos: it does not stand
/// for the user with that number. May block for seconds.
pub fn user(name: &str) -> Result<Option<User>, LookupError> {
    Sources::of_this_machine().user(name).map_err(|why| LookupError { what: format!("user '{name}'"), why })
}

/// Lists all groups of a user, `gid` first. May block for seconds.
pub fn groups_of(name: &str, gid: u32) -> Result<Vec<u32>, LookupError> {
    let groups = Sources::of_this_machine().groups_of(name, gid);
    groups.map_err(|why| LookupError { what: format!("the groups of user '{name}'"), why })
}

/// Names users; those that have no name are left out, and all that are in no file while many other lookups run. May
/// block for seconds.
pub fn user_names(uids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    Sources::of_this_machine().names("passwd", uids)
}

/// Names groups, as [`user_names`] names users.
pub fn group_names(gids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    Sources::of_this_machine().names("group", gids)
}

impl Sources {
    fn user(&self, name: &str) -> io::Result<Option<User>> {
        if !is_name(name) {
            return Ok(None);
        }
        let found = |text: &str| {
            let mut entries = text.lines().filter_map(parse_user);
            entries.find(|(entry, _)| *entry == name).map(|(_, user)| user)
        };
        if let Some(user) = found(&self.text("passwd")) {
            return Ok(Some(user));
        }
        // getent takes a number for a uid.
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        let answer = self.getent("passwd", &[name], Asker::Task)?;
        // A directory may spell the name differently; it answers with one entry in any case.
        Ok(answer.lines().find_map(parse_user).map(|(_, user)| user))
    }

    fn groups_of(&self, name: &str, gid: u32) -> io::Result<Vec<u32>> {
        let text = self.text("group");
        let has_user = |members: &str| members.split(',').any(|member| member.trim() == name);
        let in_file = text.lines().filter_map(parse_group).filter(|group| has_user(group.members));
        let in_file: Vec<u32> = in_file.map(|group| group.gid).collect();
        // `NAME  GID GID …`
        let answer = self.getent("initgroups", &[name], Asker::Task)?;
        let beyond = answer.strip_prefix(name).unwrap_or_default();
        let beyond = beyond.split_whitespace().filter_map(parse_id);
        let mut groups = vec![gid];
        let mut seen = BTreeSet::from([gid]);
        groups.extend(in_file.into_iter().chain(beyond).filter(|gid| seen.insert(*gid)).take(MAX_GROUPS - 1));
        Ok(groups)
    }

    /// Names the entries with these numbers in `passwd` or `group`.
    fn names(&self, database: &str, ids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
        let mut names = BTreeMap::new();
        let mut take = |text: &str| {
            for line in text.lines() {
                let entry = match database {
                    "passwd" => parse_user(line).map(|(name, user)| (name, user.uid)),
                    _ => parse_group(line).map(|group| (group.name, group.gid)),
                };
                if let Some((name, id)) = entry
                    && ids.contains(&id)
                {
                    names.entry(id).or_insert_with(|| name.to_owned());
                }
            }
            ids.iter().copied().filter(|id| !names.contains_key(id)).take(MAX_ASKED).collect::<Vec<_>>()
        };
        let unknown: Vec<String> = take(&self.text(database)).iter().map(u32::to_string).collect();
        if !unknown.is_empty() {
            let keys: Vec<&str> = unknown.iter().map(String::as_str).collect();
            match self.getent(database, &keys, Asker::Listing) {
                Ok(answer) => drop(take(&answer)),
                Err(error) => tracing::debug!(database, %error, "names stay numbers"),
            }
        }
        names
    }
}

/// Whether this can be a user's name, and is no option and no pattern of `getent` or of the files.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with(['-', '+', ' '])
        && !name.contains(|c: char| c.is_control() || c == ':' || c == ',')
}

/// `name:password:uid:gid:…`
fn parse_user(line: &str) -> Option<(&str, User)> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    is_name(name).then_some(())?;
    Some((name, User { uid: parse_id(uid)?, gid: parse_id(gid)? }))
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// `name:password:gid:member,member…`
fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    is_name(name).then_some(())?;
    Some(Group { name, gid: parse_id(gid)?, members: fields.next().unwrap_or_default() })
}

/// The highest number is none: for the system calls that switch a user it means "leave it as it is".
fn parse_id(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::getent::tests::machine;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# comment\n+nis\n-bad:x:1:1::/:\nspark:x:1001:100::/:\n\
        1000:x:7:7::/:\nhalf:x:9\nminus:x:4294967295:0::/:\ntext:x:a:b::/:\n";
    const GROUP: &str =
        "root:x:0:\nusers:x:100:\nhdfs:x:200:yarn,spark\ndata:x:201:spark\nmore:x:202:sparkle\n";
    const FILES: &[(&str, &str)] = &[("passwd", PASSWD), ("group", GROUP)];
    const LDAP: &[(&str, &str)] =
        &[("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", "passwd: files sss\ngroup: files sss\n")];

    #[test]
    fn users_of_the_files() {
        let (_dir, sources) = machine(FILES, None);
        let user = |name: &str| sources.user(name).expect("no error");
        assert_eq!(user("root"), Some(User { uid: 0, gid: 0 }));
        assert_eq!(user("spark"), Some(User { uid: 1001, gid: 100 }));
        for name in ["", "nosuchuser", "half", "text", "+nis", "-bad", "minus", "sp\0ark", "a:b", "# comment"]
        {
            assert_eq!(user(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_number_is_a_name() {
        let (_dir, sources) = machine(LDAP, Some("echo impostor:x:0:0::/:"));
        assert_eq!(sources.user("1000").expect("no error"), Some(User { uid: 7, gid: 7 }));
        assert_eq!(sources.user("1001").expect("no error"), None, "it is not asked for");
    }

    #[test]
    fn users_beyond_the_files() {
        let script = "case $3 in ann) echo 'ann:*:5000:5001:Ann:/:/bin/sh';; slow) exit 3;; esac; exit 2";
        let (_dir, sources) = machine(LDAP, Some(script));
        // Found comes with 0; this script is simpler.
        assert_eq!(sources.user("ann").expect("no error"), Some(User { uid: 5000, gid: 5001 }));
        assert_eq!(sources.user("nosuchuser").expect("no error"), None);
        assert!(sources.user("slow").is_err(), "no answer is not an answer");
    }

    #[test]
    fn all_groups_of_a_user() {
        let (_dir, sources) = machine(FILES, None);
        assert_eq!(sources.groups_of("spark", 100).expect("no error"), [100, 200, 201]);
        let (_dir, sources) = machine(LDAP, Some("echo \"$3   100 201 5002 5003 4294967295\""));
        assert_eq!(sources.groups_of("spark", 100).expect("no error"), [100, 200, 201, 5002, 5003]);
        assert_eq!(sources.groups_of("ann", 5001).expect("no error"), [5001, 100, 201, 5002, 5003]);
    }

    #[test]
    fn names_of_numbers() {
        let script = "echo \"$@\" >> $0.asked; echo ann:x:5000:1::/:";
        let (dir, sources) = machine(LDAP, Some(script));
        let ids = BTreeSet::from([0, 1001, 5000, 60_001]);
        let names = sources.names("passwd", &ids);
        let expected = [(0, "root"), (1001, "spark"), (5000, "ann")].map(|(id, name)| (id, name.to_owned()));
        assert_eq!(names, BTreeMap::from(expected));
        let asked = std::fs::read_to_string(dir.path().join("getent.asked")).expect("asked");
        assert_eq!(asked, "passwd -- 5000 60001\n", "once, for all that are in no file");
        let many: BTreeSet<u32> = (100_000..101_000).collect();
        assert!(sources.names("group", &many).is_empty());
        let asked = std::fs::read_to_string(dir.path().join("getent.asked")).expect("asked");
        assert_eq!(asked.lines().last().map(|line| line.split(' ').count()), Some(2 + MAX_ASKED));
    }
}
