//! Offers: made when something became free, ended when they are used, declined, withdrawn or held for too long.
use super::{
    SchedulerEvent, Step,
    ledger::Account,
    work::{EndOfOffer, Work},
};
use crate::allocator::{Grant, MAX_LOOKS};
use bellows_model::{AgentId, Filters, FrameworkId, Offer, OfferId, Resources};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// As in Mesos: a refusal that would outlive the hardware.
const MAX_REFUSAL: Duration = Duration::from_secs(365 * 24 * 3600);

/// For how long the framework does not want to see again what comes back from its offer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    None,
    For(Duration),
    /// It did not say: for as long as the allocator thinks right.
    Unsaid,
}

impl Step<'_> {
    /// Runs the allocator on what changed.
    pub(super) fn make_offers(&mut self) {
        let now = self.now;
        self.state.counters.allocation_runs += u64::from(self.state.allocator.has_work());
        let mut by_framework: BTreeMap<FrameworkId, Vec<Offer>> = BTreeMap::new();
        for grant in self.state.allocator.solve(now) {
            let offer = self.offer(grant);
            by_framework.entry(offer.framework_id.clone()).or_default().push(offer);
        }
        for (framework_id, offers) in by_framework {
            self.count(&framework_id, |counters| counters.offers_sent += offers.len() as u64);
            self.send(&framework_id, SchedulerEvent::Offers(offers));
        }
        self.trim_held_offers();
    }

    fn offer(&mut self, grant: Grant) -> Offer {
        let id = OfferId::new(format!("{}-O{}", self.state.config.master_id, self.state.ids.offers));
        self.state.ids.offers += 1;
        self.enter(Account::Offered, &grant.framework, &grant.agent, &grant.resources);
        let offer = Offer {
            id: id.clone(),
            framework_id: grant.framework,
            agent: Arc::clone(&self.state.agents[&grant.agent].info),
            agent_id: grant.agent,
            role: grant.role.to_string(),
            resources: grant.resources,
        };
        self.state.offers.insert(id.clone(), offer.clone());
        self.framework_mut(&offer.framework_id).offers.insert(id.clone());
        self.agent_mut(&offer.agent_id).offers.insert(id.clone());
        self.hold(id);
        offer
    }

    fn hold(&mut self, id: OfferId) {
        let Some(timeout) = self.state.config.offer_timeout else { return };
        self.state.held_offers.push_back((self.now + timeout, id));
    }

    /// Offers that ended leave their place in the queue behind.
    fn trim_held_offers(&mut self) {
        let state = &mut *self.state;
        if state.held_offers.len() > 2 * state.offers.len() + 64 {
            state.held_offers.retain(|(_, id)| state.offers.contains_key(id));
        }
    }

    /// Rescinds what was held for too long while others want it, so that nobody starves behind a framework
    /// that does not answer.
    pub(super) fn expire_offers(&mut self) {
        let mut looks = MAX_LOOKS;
        while looks > 0
            && self.state.held_offers.front().is_some_and(|(when, _)| *when <= self.now)
            && let Some((_, id)) = self.state.held_offers.pop_front()
        {
            looks -= 1;
            let Some(offer) = self.state.offers.get(&id).cloned() else { continue };
            let client = self.client(&offer.framework_id, &offer.role);
            let index = self.index(&offer.agent_id);
            looks = looks.saturating_sub(self.state.allocator.cost_of_asking(index));
            if self.state.allocator.is_wanted(index, &offer.resources, client, self.now) {
                self.rescind(&id, Refusal::For(Filters::DEFAULT_REFUSE));
            } else {
                self.hold(id);
            }
        }
    }

    /// Takes an offer back and tells its framework.
    pub(super) fn rescind(&mut self, id: &OfferId, refusal: Refusal) {
        if let Some(offer) = self.take_offer(id) {
            self.give_back(&offer, &offer.resources, refusal);
            self.count(&offer.framework_id, |counters| counters.offers_rescinded += 1);
            self.send(&offer.framework_id, SchedulerEvent::Rescind(offer.id));
        }
    }

    pub(super) fn rescind_of_agent(&mut self, agent_id: &AgentId) {
        for id in self.state.agents[agent_id].offers.clone() {
            self.rescind(&id, Refusal::None);
        }
    }

    /// Takes the offers of a framework back that does not hear of it.
    pub(super) fn discard_of_framework(&mut self, framework_id: &FrameworkId) {
        let offers = std::mem::take(&mut self.framework_mut(framework_id).offers);
        self.end_offers_later(framework_id, offers.into_iter().collect(), EndOfOffer::Discard(Refusal::None));
    }

    /// Ends those of the offers that the framework has, from now on for it, and for the books in due course.
    pub(super) fn end_own_offers(
        &mut self,
        framework_id: &FrameworkId,
        offers: &[OfferId],
        how: EndOfOffer,
    ) -> usize {
        let own = &mut self.framework_mut(framework_id).offers;
        let offers: VecDeque<_> = offers.iter().filter(|id| own.remove(*id)).cloned().collect();
        let count = offers.len();
        self.end_offers_later(framework_id, offers, how);
        count
    }

    fn end_offers_later(&mut self, framework_id: &FrameworkId, offers: VecDeque<OfferId>, how: EndOfOffer) {
        if !offers.is_empty() {
            let framework_id = framework_id.clone();
            self.state.backlog.push_front(Work::EndOffers { framework_id, offers, how });
        }
    }

    pub(super) fn discard(&mut self, id: &OfferId, refusal: Refusal) {
        if let Some(offer) = self.take_offer(id) {
            self.give_back(&offer, &offer.resources, refusal);
        }
    }

    /// Ends an offer; what it held stays in the books as offered.
    pub(super) fn take_offer(&mut self, id: &OfferId) -> Option<Offer> {
        let offer = self.state.offers.remove(id)?;
        self.framework_mut(&offer.framework_id).offers.remove(id);
        self.agent_mut(&offer.agent_id).offers.remove(id);
        Some(offer)
    }

    /// Frees a part of an offer that was taken.
    pub(super) fn give_back(&mut self, offer: &Offer, part: &Resources, refusal: Refusal) {
        if part.is_empty() {
            return;
        }
        self.release(Account::Offered, &offer.framework_id, &offer.role, &offer.agent_id, part);
        if matches!(refusal, Refusal::None | Refusal::For(Duration::ZERO)) {
            return;
        }
        let framework = &self.state.frameworks[&offer.framework_id];
        // Without a client it is offered nothing.
        let Some(&client) = framework.clients.get(&offer.role) else { return };
        let index = self.index(&offer.agent_id);
        match refusal {
            Refusal::None => {}
            Refusal::For(duration) => {
                self.state.allocator.refuse(index, client, part, self.now + duration.min(MAX_REFUSAL));
            }
            Refusal::Unsaid => self.state.allocator.refuse_for_now(index, client, part, self.now),
        }
    }

    /// The refusal that comes with an ACCEPT that launched something.
    pub(super) fn left_over(filters: Filters) -> Refusal {
        filters.refuse.map_or(Refusal::Unsaid, Refusal::For)
    }

    /// A refusal that makes sure that the same is not offered again at once.
    pub(super) fn declined(&self, filters: Filters) -> Refusal {
        match filters.refuse {
            Some(refuse) => Refusal::For(refuse.max(self.state.config.min_refusal)),
            None => Refusal::Unsaid,
        }
    }

    /// The framework did something that says that it may want by now what it declined without a filter.
    pub(super) fn reconsider(&mut self, framework_id: &FrameworkId) {
        let Some(framework) = self.state.frameworks.get(framework_id) else { return };
        for &client in framework.clients.values() {
            self.state.allocator.reconsider(client, self.now);
        }
    }
}
