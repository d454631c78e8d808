//! Agents and their attributes.

use super::{
    ConvertError, ResourceFormat, at_most, bounded, few, optional, repeated,
    resources::{pairs, ranges_to_wire},
    resources_from_wire, resources_to_wire,
};
use crate::v1::{self, value};
use bellows_model::{AgentInfo, Attribute, AttributeValue, limits};
use prost::Message as _;
use std::net::IpAddr;

/// Reads an agent. Mesos' message has neither the address nor the version: they are told beside it.
pub fn agent_from_wire(
    agent: v1::AgentInfo,
    ip: impl Into<String>,
    version: impl Into<String>,
) -> Result<AgentInfo, ConvertError> {
    let port = u16::try_from(agent.port()).map_err(|error| ConvertError::invalid("port", error))?;
    if agent.hostname.is_empty() {
        return Err(ConvertError::invalid("hostname", "it is empty"));
    }
    // Logs, addresses and Spark's list of hosts are made of both.
    if agent.hostname.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ConvertError::invalid("hostname", "it contains invalid characters"));
    }
    let ip = at_most("ip", limits::NAME, ip.into())?;
    ip.parse::<IpAddr>().map_err(|error| ConvertError::invalid("ip", error))?;
    let attributes = few("attributes", limits::ATTRIBUTES, agent.attributes)?;
    let bytes = attributes.iter().map(|attribute| attribute.encoded_len()).sum();
    bounded("attributes", "bytes", limits::ATTRIBUTES_BYTES, bytes)?;
    Ok(AgentInfo {
        id: optional("id", agent.id)?,
        hostname: at_most("hostname", limits::NAME, agent.hostname)?,
        ip,
        port,
        resources: resources_from_wire("resources", agent.resources)?,
        attributes: repeated("attributes", attributes)?,
        version: at_most("version", limits::NAME, version.into())?,
    })
}

/// Writes an agent; resources are its whole, not allocated to anyone.
pub fn agent_to_wire(agent: &AgentInfo) -> v1::AgentInfo {
    v1::AgentInfo {
        hostname: agent.hostname.clone(),
        port: Some(agent.port.into()),
        resources: resources_to_wire(&agent.resources, None, ResourceFormat::Refined),
        attributes: agent.attributes.iter().map(Into::into).collect(),
        id: agent.id.as_ref().map(Into::into),
        ..Default::default()
    }
}

impl TryFrom<v1::Attribute> for Attribute {
    type Error = ConvertError;

    fn try_from(attribute: v1::Attribute) -> Result<Self, ConvertError> {
        let missing = |field| move || ConvertError::missing(field);
        let value = match attribute.r#type() {
            value::Type::Scalar => {
                AttributeValue::Scalar(attribute.scalar.ok_or_else(missing("scalar"))?.value)
            }
            value::Type::Ranges => {
                AttributeValue::Ranges(pairs(&attribute.ranges.ok_or_else(missing("ranges"))?))
            }
            value::Type::Set => AttributeValue::Set(attribute.set.ok_or_else(missing("set"))?.item),
            value::Type::Text => AttributeValue::Text(attribute.text.ok_or_else(missing("text"))?.value),
        };
        Ok(Self { name: attribute.name, value })
    }
}

impl From<&Attribute> for v1::Attribute {
    fn from(attribute: &Attribute) -> Self {
        let mut wire = Self { name: attribute.name.clone(), ..Default::default() };
        match &attribute.value {
            AttributeValue::Scalar(scalar) => {
                wire.set_type(value::Type::Scalar);
                wire.scalar = Some(value::Scalar { value: *scalar });
            }
            AttributeValue::Ranges(ranges) => {
                wire.set_type(value::Type::Ranges);
                wire.ranges = Some(ranges_to_wire(ranges));
            }
            AttributeValue::Set(items) => {
                wire.set_type(value::Type::Set);
                wire.set = Some(value::Set { item: items.clone() });
            }
            AttributeValue::Text(text) => {
                wire.set_type(value::Type::Text);
                wire.text = Some(value::Text { value: text.clone() });
            }
        }
        wire
    }
}
