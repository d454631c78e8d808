//! Quantities of resources and their arithmetic, in integer milli-units.
//!
//! Mesos keeps three decimals of a scalar (`Value::Scalar`, fixed point since 0.27); so does this.
use crate::limits;
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Milli-units in one unit.
pub const MILLI: i64 = 1_000;

/// A scalar in milli-units: 0.1 CPU is 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scalar(pub i64);

impl Scalar {
    /// The most that one agent may have of one kind (10^11 units; of memory, 100 PB). The sum over 50,000 agents is
    /// still an `i64`.
    pub const MAX: Self = Self(100_000_000_000 * MILLI);

    /// Rounds to three decimals. `None` for what is not finite, negative, or beyond [`Self::MAX`].
    pub fn from_f64(value: f64) -> Option<Self> {
        let milli = (value * MILLI as f64).round();
        (milli.is_finite() && (0.0..=Self::MAX.0 as f64).contains(&milli)).then_some(Self(milli as i64))
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64 / MILLI as f64
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Scalar(Scalar),
    /// Inclusive, ascending, neither overlapping nor adjacent: see [`Value::ranges`].
    Ranges(Vec<(u64, u64)>),
    Set(BTreeSet<String>),
}

impl Value {
    /// Brings ranges into their one normal form. Inverted ranges are an error.
    pub fn ranges(mut ranges: Vec<(u64, u64)>) -> Result<Self, ResourceError> {
        if let Some(&(begin, end)) = ranges.iter().find(|(begin, end)| begin > end) {
            return Err(ResourceError::InvertedRange(begin, end));
        }
        ranges.sort_unstable();
        let mut normal: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (begin, end) in ranges {
            match normal.last_mut() {
                Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => normal.push((begin, end)),
            }
        }
        Ok(Self::Ranges(normal))
    }

    /// How many ranges or items it consists of.
    fn parts(&self) -> usize {
        match self {
            Self::Scalar(_) => 1,
            Self::Ranges(ranges) => ranges.len(),
            Self::Set(set) => set.len(),
        }
    }

    /// How many bytes it takes.
    fn bytes(&self) -> usize {
        match self {
            Self::Scalar(_) => size_of::<Scalar>(),
            Self::Ranges(ranges) => size_of_val(&**ranges),
            Self::Set(set) => set.iter().map(|item| size_of::<u64>() + item.len()).sum(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(scalar) => scalar.0 == 0,
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(set) => set.is_empty(),
        }
    }

    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a.0 = a.0.saturating_add(b.0),
            (Self::Ranges(a), Self::Ranges(b)) => {
                a.extend_from_slice(b);
                if let Ok(Self::Ranges(normal)) = Self::ranges(std::mem::take(a)) {
                    *a = normal;
                }
            }
            (Self::Set(a), Self::Set(b)) => a.extend(b.iter().cloned()),
            _ => {}
        }
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => b.0 <= a.0,
            (Self::Ranges(a), Self::Ranges(b)) => {
                // Both ascend.
                let mut a = a.iter();
                let mut around = a.next();
                b.iter().all(|&(begin, end)| {
                    while around.is_some_and(|&(_, to)| to < begin) {
                        around = a.next();
                    }
                    around.is_some_and(|&(from, to)| from <= begin && end <= to)
                })
            }
            (Self::Set(a), Self::Set(b)) => b.is_subset(a),
            _ => false,
        }
    }

    /// Takes `other` away, which must be within `self`.
    fn subtract(&mut self, other: &Self) {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a.0 -= b.0,
            (Self::Ranges(a), Self::Ranges(b)) => {
                *a = subtract_ranges(a, b).expect("invariant: the caller has checked that it is contained");
            }
            (Self::Set(a), Self::Set(b)) => a.retain(|item| !b.contains(item)),
            _ => {}
        }
    }
}

/// One pass over both, which ascend.
fn subtract_ranges(from: &[(u64, u64)], what: &[(u64, u64)]) -> Option<Vec<(u64, u64)>> {
    let mut left = Vec::with_capacity(from.len() + what.len());
    let mut what = what.iter().peekable();
    for &(begin, end) in from {
        let mut rest = Some(begin);
        while let Some(&(from, to)) = what.next_if(|&&(from, _)| from <= end) {
            let start = rest.filter(|&start| start <= from && to <= end)?;
            if start < from {
                left.push((start, from - 1));
            }
            rest = (to < end).then(|| to + 1);
        }
        left.extend(rest.map(|start| (start, end)));
    }
    what.next().is_none().then_some(left)
}

/// One kind of resource; two entries with the same name and reservation are added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    /// The role it is reserved for; `None`: anyone may have it.
    pub reserved_for: Option<Arc<str>>,
    pub value: Value,
}

impl Resource {
    fn is_available_to(&self, role: &str) -> bool {
        self.reserved_for.as_deref().is_none_or(|reserved| reserved == role)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("'{0}' has a scalar that is negative, not finite or too large")]
    BadScalar(String),
    #[error("the sum of all '{0}' is too large")]
    TooLarge(String),
    #[error("'{0}' has more than {max} ranges or items", max = limits::RESOURCE_PARTS)]
    TooManyParts(String),
    #[error("there are more than {max} kinds of resources", max = limits::RESOURCES)]
    TooManyKinds,
    #[error(
        "all together has more than {parts} ranges and items, or more than {bytes} bytes",
        parts = limits::RESOURCES_PARTS, bytes = limits::RESOURCES_BYTES
    )]
    TooMuch,
    #[error("range {0}-{1} is inverted")]
    InvertedRange(u64, u64),
    #[error("'{0}' names an element of its set twice")]
    Duplicate(String),
    #[error("'{0}' is given with two different types")]
    MixedTypes(String),
    #[error(
        "cannot read '{0}' as resources: expected name:value pairs such as cpus:4;mem:8192;ports:[31000-32000]"
    )]
    Syntax(String),
}

/// A set of resources. Entries are sorted by name and reservation, none is empty: equal sets compare equal.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Resources(Vec<Resource>);

impl Resources {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sums up `items`. A name must have one type throughout, and a sum within [`Scalar::MAX`].
    pub fn from_items(items: impl IntoIterator<Item = Resource>) -> Result<Self, ResourceError> {
        let mut sum = Self::new();
        for item in items {
            let name = || item.name.to_string();
            if let Some(known) = sum.0.iter().find(|known| known.name == item.name)
                && std::mem::discriminant(&known.value) != std::mem::discriminant(&item.value)
            {
                return Err(ResourceError::MixedTypes(name()));
            }
            if item.value.parts() > limits::RESOURCE_PARTS {
                return Err(ResourceError::TooManyParts(name()));
            }
            sum.add_item(&item);
            // No single scalar is negative or beyond the limit, so that the sum does not wrap before this sees it.
            if sum.scalar(&item.name) > Scalar::MAX {
                return Err(ResourceError::TooLarge(name()));
            }
            if sum.find(&item).is_ok_and(|at| sum.0[at].value.parts() > limits::RESOURCE_PARTS) {
                return Err(ResourceError::TooManyParts(name()));
            }
            if sum.0.len() > limits::RESOURCES {
                return Err(ResourceError::TooManyKinds);
            }
        }
        if sum.parts() > limits::RESOURCES_PARTS || sum.bytes() > limits::RESOURCES_BYTES {
            return Err(ResourceError::TooMuch);
        }
        Ok(sum)
    }

    /// Reads Mesos' text form: `cpus:4;mem:8192;disk(role):100;ports:[31000-32000,33000-33100];zones:{a,b}`.
    pub fn parse(text: &str) -> Result<Self, ResourceError> {
        Self::from_items(Self::parse_items(text)?)
    }

    /// Reads the same form item by item; those of nothing, as `cpus:0`, are among them.
    pub fn parse_items(text: &str) -> Result<Vec<Resource>, ResourceError> {
        text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(parse_item).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many scalars, ranges and items it consists of: what arithmetic with it costs.
    pub fn parts(&self) -> usize {
        self.0.iter().map(|item| item.value.parts()).sum()
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let names =
            |item: &Resource| item.name.len() + item.reserved_for.as_ref().map_or(0, |role| role.len());
        self.0.iter().map(|item| names(item) + item.value.bytes()).sum()
    }

    /// The sum of all scalars of that name, reserved or not.
    pub fn scalar(&self, name: &str) -> Scalar {
        Scalar(
            self.0
                .iter()
                .filter(|item| &*item.name == name)
                .map(|item| if let Value::Scalar(scalar) = &item.value { scalar.0 } else { 0 })
                .fold(0, i64::saturating_add),
        )
    }

    pub fn cpus(&self) -> Scalar {
        self.scalar("cpus")
    }

    /// In MB.
    pub fn mem(&self) -> Scalar {
        self.scalar("mem")
    }

    /// What a framework in `role` may be given: what is unreserved, or reserved for that role.
    pub fn available_to(&self, role: &str) -> Self {
        Self(self.0.iter().filter(|item| item.is_available_to(role)).cloned().collect())
    }

    /// Only the scalars: ranges and sets of different agents do not add up.
    pub fn scalars(&self) -> Self {
        Self(self.0.iter().filter(|item| matches!(item.value, Value::Scalar(_))).cloned().collect())
    }

    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|item| self.add_item(item));
    }

    /// `self - other`, or `None` when `other` is not wholly within `self`.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let mut left = self.clone();
        left.take(other).then_some(left)
    }

    /// Takes `other` away, and says `true`; where it is not wholly within `self`, nothing changes.
    #[must_use]
    pub fn take(&mut self, other: &Self) -> bool {
        if !self.contains(other) {
            return false;
        }
        for item in &other.0 {
            if let Ok(at) = self.find(item) {
                self.0[at].value.subtract(&item.value);
                if self.0[at].value.is_empty() {
                    self.0.remove(at);
                }
            }
        }
        true
    }

    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|item| self.contains_item(item))
    }

    /// `self.contains(&other.available_to(role))`, without the copy.
    pub fn contains_available(&self, other: &Self, role: &str) -> bool {
        other.0.iter().filter(|item| item.is_available_to(role)).all(|item| self.contains_item(item))
    }

    /// `self.available_to(role).scalar(name)`, without the copy.
    pub fn available_scalar(&self, name: &str, role: &str) -> Scalar {
        let amount = |item: &Resource| match &item.value {
            Value::Scalar(scalar) if &*item.name == name && item.is_available_to(role) => scalar.0,
            _ => 0,
        };
        Scalar(self.0.iter().map(amount).sum())
    }

    fn contains_item(&self, item: &Resource) -> bool {
        self.find(item).is_ok_and(|at| self.0[at].value.contains(&item.value))
    }

    fn find(&self, item: &Resource) -> Result<usize, usize> {
        self.0.binary_search_by(|known| {
            (&known.name, &known.reserved_for).cmp(&(&item.name, &item.reserved_for))
        })
    }

    fn add_item(&mut self, item: &Resource) {
        if item.value.is_empty() {
            return;
        }
        match self.find(item) {
            Ok(at) => self.0[at].value.add(&item.value),
            Err(at) => self.0.insert(at, item.clone()),
        }
    }
}

fn parse_item(part: &str) -> Result<Resource, ResourceError> {
    let syntax = || ResourceError::Syntax(part.to_owned());
    let (name, value) = part.split_once(':').ok_or_else(syntax)?;
    let (name, reserved_for) = match name.trim().strip_suffix(')').map(|rest| rest.split_once('(')) {
        Some(Some((name, role))) => (name.trim(), Some(role.trim()).filter(|role| *role != "*")),
        Some(None) => return Err(syntax()),
        None => (name.trim(), None),
    };
    if name.is_empty()
        || value.contains(':')
        || name.contains(['(', ')'])
        || reserved_for.is_some_and(|role| crate::validate_role(role).is_err())
    {
        return Err(syntax());
    }
    let value = value.trim();
    let inside = |open, close| value.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    let value = if value == "[]" {
        Value::Ranges(Vec::new())
    } else if let Some(list) = inside('[', ']') {
        let range = |range: &str| {
            let (begin, end) = range.trim().split_once('-')?;
            Some((begin.trim().parse().ok()?, end.trim().parse().ok()?))
        };
        Value::ranges(list.split(',').map(range).collect::<Option<Vec<_>>>().ok_or_else(syntax)?)?
    } else if let Some(list) = inside('{', '}') {
        let mut set = BTreeSet::new();
        let mut items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        if !items.all(|item| set.insert(item.to_owned())) {
            return Err(ResourceError::Duplicate(part.to_owned()));
        }
        Value::Set(set)
    } else {
        let number = value.parse().map_err(|_| syntax())?;
        Value::Scalar(Scalar::from_f64(number).ok_or_else(|| ResourceError::BadScalar(name.to_owned()))?)
    };
    Ok(Resource { name: name.into(), reserved_for: reserved_for.map(Into::into), value })
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}", item.name)?;
            if let Some(role) = &item.reserved_for {
                write!(f, "({role})")?;
            }
            match &item.value {
                Value::Scalar(scalar) => write!(f, ":{}", scalar.as_f64())?,
                Value::Ranges(ranges) => {
                    let text: Vec<_> = ranges.iter().map(|(begin, end)| format!("{begin}-{end}")).collect();
                    write!(f, ":[{}]", text.join(", "))?;
                }
                Value::Set(set) => {
                    write!(f, ":{{{}}}", set.iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Resources {
        Resources::parse(text).expect("test text")
    }

    #[test]
    fn reads_and_prints_mesos_text() {
        let all = parse("cpus:2.5; mem:4096;ports:[31000-32000];zones:{b,a};disk(etl):10;cpus(*):1");
        assert_eq!(all.to_string(), "cpus:3.5; disk(etl):10; mem:4096; ports:[31000-32000]; zones:{a, b}");
        for bad in [
            "cpus",
            "cpus:x",
            "cpus:-1",
            "cpus:nan",
            "ports:[3-1]",
            "ports:[1]",
            ":1",
            "cpus:1;cpus:[1-2]",
            "cpus(a:1",
        ] {
            assert!(Resources::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn all_kinds_together_are_bounded() {
        let kind = |name: usize, items: usize, length: usize| Resource {
            name: format!("kind{name}").as_str().into(),
            reserved_for: None,
            value: Value::Set((0..items).map(|item| format!("{item:0length$}")).collect()),
        };
        assert!(Resources::from_items((0..10).map(|name| kind(name, 200, 4))).is_ok());
        let parts = Resources::from_items((0..11).map(|name| kind(name, 200, 4)));
        assert_eq!(parts, Err(ResourceError::TooMuch));
        let bytes = Resources::from_items((0..10).map(|name| kind(name, 1, 8_000)));
        assert_eq!(bytes, Err(ResourceError::TooMuch));
    }

    #[test]
    fn what_cannot_be_taken_wholly_is_not_taken() {
        let mut all = parse("cpus:4;ports:[1-9];zones:{a,b}");
        let before = all.clone();
        for more in ["cpus:1;ports:[9-10]", "cpus:1;zones:{c}", "cpus:1;mem:1", "cpus:5"] {
            assert!(!all.take(&parse(more)), "{more}");
            assert_eq!(all, before);
        }
        assert!(all.take(&parse("cpus:4;ports:[2-3];zones:{a}")));
        assert_eq!(all, parse("ports:[1-1,4-9];zones:{b}"));
    }

    #[test]
    fn ports_split_and_join_again() {
        let all = parse("ports:[10-20]");
        let middle = parse("ports:[12-13,15-15]");
        let mut left = all.checked_sub(&middle).expect("within");
        assert_eq!(left, parse("ports:[10-11,14-14,16-20]"));
        assert!(!left.contains(&parse("ports:[13-14]")));
        left.add(&middle);
        assert_eq!(left, all);
    }

    #[test]
    fn reserved_is_kept_from_other_roles() {
        let all = parse("cpus:2;cpus(etl):3");
        assert_eq!(all.available_to("*"), parse("cpus:2"));
        assert_eq!(all.available_to("etl"), all);
        assert!(!all.contains(&parse("cpus:3")));
    }

    fn resources() -> impl Strategy<Value = Resources> {
        let scalar =
            (0..3usize, proptest::option::of(0..2usize), 0..10_000i64).prop_map(|(name, role, milli)| {
                Resource {
                    name: ["cpus", "mem", "disk"][name].into(),
                    reserved_for: role.map(|role| ["a", "b"][role].into()),
                    value: Value::Scalar(Scalar(milli)),
                }
            });
        let ports = (0..50u64, 0..50u64).prop_map(|(begin, length)| Resource {
            name: "ports".into(),
            reserved_for: None,
            value: Value::ranges(vec![(begin, begin + length / 4), (begin + 20, begin + 20 + length / 3)])
                .expect("in order"),
        });
        proptest::collection::vec(prop_oneof![scalar, ports], 0..6)
            .prop_map(|items| Resources::from_items(items).expect("one type a name"))
    }

    #[test]
    fn sums_and_lists_are_bounded() {
        for bad in
            ["cpus:1e300", "cpus:100000000001", "cpus:100000000000;cpus(a):0.001", "cpus:inf", "mem:-0.5"]
        {
            assert!(Resources::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse("cpus:100000000000").cpus(), Scalar::MAX);
        let ranges = |count: usize| {
            let ranges: Vec<_> = (0..count).map(|n| format!("{}-{}", 3 * n, 3 * n + 1)).collect();
            format!("ports:[{}]", ranges.join(","))
        };
        assert!(Resources::parse(&ranges(limits::RESOURCE_PARTS)).is_ok());
        let one_more = Resources::parse(&ranges(limits::RESOURCE_PARTS + 1));
        assert_eq!(one_more, Err(ResourceError::TooManyParts("ports".into())));
        let split = format!("{};ports:[900000-900001]", ranges(limits::RESOURCE_PARTS));
        assert_eq!(Resources::parse(&split), Err(ResourceError::TooManyParts("ports".into())));
        let kinds: Vec<_> = (0..=limits::RESOURCES).map(|n| format!("kind{n}:1")).collect();
        assert_eq!(Resources::parse(&kinds.join(";")), Err(ResourceError::TooManyKinds));
        assert!(Resources::parse(&kinds[1..].join(";")).is_ok());
        let all = parse("ports:[0-18446744073709551615]");
        assert_eq!(all.checked_sub(&all), Some(Resources::new()));
    }

    proptest! {
        #[test]
        fn what_was_taken_can_be_given_back(a in resources(), b in resources()) {
            if let Some(mut left) = a.checked_sub(&b) {
                left.add(&b);
                prop_assert_eq!(left, a);
            } else {
                prop_assert!(!b.is_empty());
            }
        }

        #[test]
        fn questions_without_a_copy_have_the_same_answers(a in resources(), b in resources()) {
            prop_assert_eq!(a.contains(&b), a.checked_sub(&b).is_some());
            for role in ["*", "a", "b"] {
                let available = b.available_to(role);
                prop_assert_eq!(a.contains_available(&b, role), a.contains(&available));
                prop_assert_eq!(b.available_scalar("cpus", role), available.scalar("cpus"));
            }
        }

        #[test]
        fn a_sum_contains_its_parts(a in resources(), b in resources()) {
            let mut sum = a.clone();
            sum.add(&b);
            prop_assert!(sum.contains(&a) && sum.contains(&b));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = Resources::parse(&text);
        }
    }
}
