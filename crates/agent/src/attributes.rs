//! Attributes as operators write them: `rack:r1;zone:a;cores:16;ports:[1-2];tags:{a,b}`.
use bellows_model::{Attribute, AttributeValue};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read '{0}' as an attribute: expected name:value pairs such as rack:r1;zone:a")]
pub struct AttributeError(String);

/// Numbers become scalars, `[…]` ranges, `{…}` sets, everything else text: as Mesos guesses.
pub fn parse_attributes(text: &str) -> Result<Vec<Attribute>, AttributeError> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(part: &str) -> Result<Attribute, AttributeError> {
    let error = || AttributeError(part.to_owned());
    let (name, value) = part.split_once(':').ok_or_else(error)?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err(error());
    }
    let within = |open, close| value.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    let value = if let Some(list) = within('[', ']') {
        let range = |range: &str| {
            let (begin, end) = range.trim().split_once('-')?;
            Some((begin.trim().parse().ok()?, end.trim().parse().ok()?))
        };
        AttributeValue::Ranges(list.split(',').map(range).collect::<Option<_>>().ok_or_else(error)?)
    } else if let Some(list) = within('{', '}') {
        AttributeValue::Set(list.split(',').map(|item| item.trim().to_owned()).collect())
    } else {
        match value.parse::<f64>() {
            Ok(number) if number.is_finite() => AttributeValue::Scalar(number),
            _ => AttributeValue::Text(value.to_owned()),
        }
    };
    Ok(Attribute { name: name.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_tells_the_type() {
        let attributes =
            parse_attributes(" rack:r1; weight:2.5;p:[1-2,4-5];tags:{a, b};url:http://x:1;").expect("valid");
        let expected = [
            ("rack", AttributeValue::Text("r1".into())),
            ("weight", AttributeValue::Scalar(2.5)),
            ("p", AttributeValue::Ranges(vec![(1, 2), (4, 5)])),
            ("tags", AttributeValue::Set(vec!["a".into(), "b".into()])),
            ("url", AttributeValue::Text("http://x:1".into())),
        ];
        let expected = expected.map(|(name, value)| Attribute { name: name.into(), value });
        assert_eq!(attributes, expected);
        for bad in ["rack", ":x", "rack:", "p:[1]"] {
            assert!(parse_attributes(bad).is_err(), "{bad:?}");
        }
    }
}
