//! Values of flags that are long: as they are, or `file:///path` to where they are written (Mesos' `stout/flags`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bellows_agent::EnvironmentVariable;

use crate::error::Error;

const LIMIT_BYTES: u64 = 1 << 20;

/// The value of `flag`, read from its file where it names one.
pub fn resolve(flag: &str, value: String) -> Result<String, Error> {
    let Some(path) = value.strip_prefix("file://") else { return Ok(value) };
    let failed =
        |why: &dyn std::fmt::Display| Error::usage(format!("{flag} {value}: {why}"), "name a readable file");
    if !Path::new(path).is_absolute() {
        return Err(failed(&"the path must be absolute, as in file:///etc/bellows/resources.json"));
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > LIMIT_BYTES => {
            Err(failed(&format!("it is longer than {LIMIT_BYTES} bytes")))
        }
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err(failed(&error)),
    }
}

/// A JSON object of names and values, as Mesos' `--executor_environment_variables` is one.
pub fn environment(flag: &str, json: &str) -> Result<Vec<EnvironmentVariable>, Error> {
    let read: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(json);
    let refused = |why: String| Error::usage(format!("{flag}: {why}"), r#"write it as {"NAME": "value", …}"#);
    let variables = read.map_err(|error| refused(format!("cannot read it as a JSON object: {error}")))?;
    let variable = |(name, value): (String, serde_json::Value)| match value {
        _ if name.is_empty() || name.contains(['=', '\0']) => {
            Err(refused(format!("'{name}' is no name of a variable")))
        }
        serde_json::Value::String(value) if value.contains('\0') => {
            Err(refused(format!("the value of '{name}' contains a zero byte")))
        }
        serde_json::Value::String(value) => Ok(EnvironmentVariable { name, value }),
        _ => Err(refused(format!("the value of '{name}' is no string"))),
    };
    variables.into_iter().map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_lie_in_a_file() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("resources");
        std::fs::write(&path, "cpus:4;mem:512\n").expect("written");
        let of = |value: &str| resolve("--resources", value.to_owned());
        assert_eq!(of("cpus:1").expect("taken"), "cpus:1");
        assert_eq!(of(&format!("file://{}", path.display())).expect("read"), "cpus:4;mem:512");
        for bad in ["file://relative", "file:///no/such/file", "file:///"] {
            let error = of(bad).expect_err(bad).to_string();
            assert!(error.contains("--resources") && error.contains(bad), "{error}");
        }
        let large = File::create(&path).expect("created");
        large.set_len(LIMIT_BYTES + 1).expect("sparse");
        assert!(of(&format!("file://{}", path.display())).is_err());
    }

    #[test]
    fn an_environment_is_an_object_of_strings() {
        let read = |json: &str| environment("--executor-environment", json);
        let variables = read(r#"{"HOME": "/srv/spark", "EMPTY": ""}"#).expect("read");
        let named: Vec<_> = variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(named, [("EMPTY", ""), ("HOME", "/srv/spark")]);
        assert!(read("{}").expect("read").is_empty());
        for bad in
            ["", "[]", "HOME=/x", r#"{"A": 1}"#, r#"{"A=B": "x"}"#, r#"{"": "x"}"#, r#"{"A": "\u0000"}"#]
        {
            let error = read(bad).expect_err(bad).to_string();
            assert!(error.contains("--executor-environment"), "{error}");
        }
    }
}
