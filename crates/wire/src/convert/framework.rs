//! Frameworks: one role or several, as their capabilities say.
#![expect(deprecated, reason = "the single-role form is what frameworks without MULTI_ROLE speak")]

use super::{
    ConvertError, at_most, bounded, few, labels_from_wire, labels_to_wire, optional, seconds_from_wire,
};
use crate::v1::{self, framework_info::capability::Type};
use bellows_model::{Capability, DEFAULT_ROLE, FrameworkInfo, limits, validate_role};
use std::collections::BTreeSet;

const CAPABILITIES: [(Type, Capability); 8] = [
    (Type::RevocableResources, Capability::RevocableResources),
    (Type::TaskKillingState, Capability::TaskKillingState),
    (Type::GpuResources, Capability::GpuResources),
    (Type::SharedResources, Capability::SharedResources),
    (Type::PartitionAware, Capability::PartitionAware),
    (Type::MultiRole, Capability::MultiRole),
    (Type::ReservationRefinement, Capability::ReservationRefinement),
    (Type::RegionAware, Capability::RegionAware),
];

impl TryFrom<v1::FrameworkInfo> for FrameworkInfo {
    type Error = ConvertError;

    fn try_from(mut info: v1::FrameworkInfo) -> Result<Self, ConvertError> {
        info.roles = few("roles", limits::ROLES, info.roles)?;
        bounded("roles", "bytes", limits::ROLES_BYTES, info.roles.iter().map(String::len).sum())?;
        info.capabilities = few("capabilities", limits::CAPABILITIES, info.capabilities)?;
        let failover_timeout = seconds_from_wire(info.failover_timeout())
            .ok_or_else(|| ConvertError::invalid("failover_timeout", "it is not a duration in seconds"))?;
        let checkpoint = info.checkpoint();
        let mut capabilities = Vec::new();
        for given in &info.capabilities {
            let known = CAPABILITIES.iter().find(|(wire, _)| *wire == given.r#type());
            if let Some((_, capability)) = known.filter(|(_, known)| !capabilities.contains(known)) {
                capabilities.push(*capability);
            }
        }
        Ok(Self {
            roles: roles(&info, capabilities.contains(&Capability::MultiRole))?,
            // A first SUBSCRIBE may bear an empty id.
            id: optional("id", info.id.filter(|id| !id.value.is_empty()))?,
            name: at_most("name", limits::FRAMEWORK_NAME, info.name)?,
            user: super::no_nul("user", at_most("user", limits::NAME, info.user)?)?,
            principal: info.principal.map(|text| at_most("principal", limits::NAME, text)).transpose()?,
            hostname: at_most("hostname", limits::NAME, info.hostname.unwrap_or_default())?,
            webui_url: info.webui_url.map(|text| at_most("webui_url", limits::URL, text)).transpose()?,
            failover_timeout,
            checkpoint,
            capabilities,
            labels: labels_from_wire(info.labels)?,
        })
    }
}

/// Mesos' rules, in its words (`master/validation.cpp`).
fn roles(info: &v1::FrameworkInfo, multi_role: bool) -> Result<Vec<String>, ConvertError> {
    let invalid = |field, reason| Err(ConvertError::invalid(field, reason));
    if multi_role && info.role.is_some() {
        return invalid("role", "it must not be set when the framework is MULTI_ROLE capable");
    }
    if !multi_role && !info.roles.is_empty() {
        return invalid("roles", "it must not be set when the framework is not MULTI_ROLE capable");
    }
    let roles = match multi_role {
        true if info.roles.is_empty() => vec![DEFAULT_ROLE.to_owned()],
        true => info.roles.clone(),
        false => vec![info.role().to_owned()],
    };
    let field = if multi_role { "roles" } else { "role" };
    for role in &roles {
        validate_role(role).map_err(|error| ConvertError::invalid(field, error))?;
    }
    if roles.iter().collect::<BTreeSet<_>>().len() < roles.len() {
        return invalid("roles", "it contains duplicate items");
    }
    Ok(roles)
}

impl From<&FrameworkInfo> for v1::FrameworkInfo {
    fn from(info: &FrameworkInfo) -> Self {
        let multi_role = info.has(Capability::MultiRole);
        let capability = |capability: &Capability| {
            let wire = CAPABILITIES.iter().find(|(_, model)| model == capability).map(|(wire, _)| *wire);
            v1::framework_info::Capability { r#type: wire.map(Into::into) }
        };
        Self {
            user: info.user.clone(),
            name: info.name.clone(),
            id: info.id.as_ref().map(Into::into),
            failover_timeout: Some(info.failover_timeout.as_secs_f64()),
            checkpoint: Some(info.checkpoint),
            role: if multi_role { None } else { info.roles.first().cloned() },
            roles: if multi_role { info.roles.clone() } else { Vec::new() },
            hostname: Some(info.hostname.clone()).filter(|hostname| !hostname.is_empty()),
            principal: info.principal.clone(),
            webui_url: info.webui_url.clone(),
            capabilities: info.capabilities.iter().map(capability).collect(),
            labels: labels_to_wire(&info.labels),
            ..Default::default()
        }
    }
}
