//! One node among others, as a pure core: publications that wait until another node has them, entity-tags of leases not heard
//! of, what others want to know, and what this node says of itself. Knows no clock, no socket and no thread.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::message::{Message, UNCONFIRMED, batch};
use super::{FromCluster, ToCluster};
use crate::compositor::{Compositor, Grant, Heard, Kind, Now, Record, Verdict};
use crate::info::{Server, Status};
use crate::wire::Flow;

/// PUBLISHes that may wait, for their confirmation and for what other nodes know.
const WAITING_MOST: usize = 4_096;
/// event-package.md: "a node that lacks the entry asks for it, 200 ms at most, before it says 412".
const UNHEARD_MS: u64 = 200;
/// A PUBLISH waits no longer for the one before it.
const BUSY_MS: u64 = 1_000;
/// How often this node looks at itself and at the others.
const LOOK_MS: u64 = 1_000;
/// From so many points on a change of its load is told, and so seldom: telling it is itself work for every node.
const LOAD_STEP: u8 = 10;
const LOAD_MS: u64 = 10_000;
/// Its own entry is told again though nothing changed: well within its lease.
const ANNOUNCE_MS: u64 = 1_200_000;
/// A lease so short cannot wait for gossip to carry its refreshes, in seconds.
const BRIEF_S: u32 = 10;

/// A PUBLISH as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub shard: u8,
    pub flow: Flow,
    pub bytes: Vec<u8>,
}

/// The response to a PUBLISH, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub shard: u8,
    pub flow: Flow,
    pub bytes: Vec<u8>,
}

/// A publication that waits for its confirmation.
#[derive(Debug)]
struct Granted {
    request: Request,
    grant: Grant,
    response: Vec<u8>,
}

/// A PUBLISH that cannot be judged yet.
#[derive(Debug)]
struct Parked {
    request: Request,
    until_ms: u64,
    /// Another node was asked for the lease.
    asked: bool,
}

/// This node and its compositor, alone or among others.
#[derive(Debug)]
pub struct Member {
    pub compositor: Compositor,
    others: Option<Others>,
    answers: Vec<Answer>,
    /// PUBLISHes dropped because too many waited.
    pub overflows: u64,
}

/// What a node among others has to keep in mind.
#[derive(Debug)]
struct Others {
    /// What this node is to others.
    own: Server,
    looked_ms: u64,
    announced_ms: u64,
    /// All that others know is known here, as far as that can be.
    is_whole: bool,
    /// Nobody can be told, and nobody is heard.
    is_away: bool,
    /// Another process of this node's name came first: its entry is shown, not this one's.
    is_twin: bool,
    next_ticket: u64,
    granted: BTreeMap<u64, Granted>,
    parked: VecDeque<Parked>,
    /// What the engine is to be told, in this order.
    said: VecDeque<ToCluster>,
}

impl Member {
    /// A node that stands alone.
    pub fn alone(compositor: Compositor) -> Self {
        Member {
            compositor,
            others: None,
            answers: Vec::new(),
            overflows: 0,
        }
    }

    /// A node among others, which see it as `own`. Its documents are stale until it has learnt what others know, or that
    /// nobody is there.
    pub fn among(now: Now, mut compositor: Compositor, own: Server) -> Self {
        compositor.set_live(now, vec![own.id.clone()]);
        compositor.set_stale(true);
        let mut member = Member {
            others: Some(Others {
                own,
                looked_ms: now.mono_ms,
                announced_ms: now.mono_ms,
                is_whole: false,
                is_away: false,
                is_twin: false,
                next_ticket: 0,
                granted: BTreeMap::new(),
                parked: VecDeque::new(),
                said: VecDeque::new(),
            }),
            ..Member::alone(compositor)
        };
        member.announce(now);
        member
    }

    /// This node's name among others.
    pub fn own(&self) -> Option<&Server> {
        self.others.as_ref().map(|others| &others.own)
    }

    /// Judges a PUBLISH. Its answer may come later.
    pub fn publish(&mut self, now: Now, request: Request) {
        if self.others.is_none() {
            let mut response = Vec::new();
            self.compositor
                .publish(now, request.flow.peer, &request.bytes, &mut response);
            return self.answer(&request, response);
        }
        if let Some(parked) = self.consider(now, request, None) {
            let others = self.others.as_mut().expect("it is not alone");
            if others.parked.len() < WAITING_MOST {
                return others.parked.push_back(parked);
            }
            // Its publisher sends it again.
            self.overflows += 1;
        }
    }

    fn answer(&mut self, request: &Request, response: Vec<u8>) {
        if !response.is_empty() {
            self.answers.push(Answer {
                shard: request.shard,
                flow: request.flow,
                bytes: response,
            });
        }
    }

    /// Gives back what has to wait; `former`: how long it may, and whether its lease was asked for.
    fn consider(
        &mut self,
        now: Now,
        request: Request,
        former: Option<(u64, bool)>,
    ) -> Option<Parked> {
        let peer = request.flow.peer;
        let mut response = Vec::new();
        let verdict = self
            .compositor
            .consider(now, peer, &request.bytes, &mut response);
        let others = self.others.as_mut().expect("it is not alone");
        match verdict {
            Verdict::Answered => self.answer(&request, response),
            Verdict::Granted(grant) if others.is_away => {
                self.unkept(
                    now,
                    Granted {
                        request,
                        grant,
                        response,
                    },
                );
            }
            Verdict::Granted(grant) if others.granted.len() < WAITING_MOST => {
                let ticket = others.next_ticket;
                others.next_ticket += 1;
                others.said.push_back(keep(ticket, &grant));
                let granted = Granted {
                    request,
                    grant,
                    response,
                };
                others.granted.insert(ticket, granted);
            }
            Verdict::Granted(grant) => self.decline(&request, grant),
            Verdict::Unheard { .. } if others.is_away => {
                self.compositor
                    .refuse_unkept(peer, &request.bytes, &mut response);
                self.answer(&request, response);
            }
            Verdict::Unheard { node, place } => match former {
                Some((until_ms, true)) if until_ms <= now.mono_ms => {
                    self.compositor
                        .mismatch(peer, &request.bytes, &mut response);
                    self.answer(&request, response);
                }
                Some((until_ms, true)) => {
                    return Some(Parked {
                        request,
                        until_ms,
                        asked: true,
                    });
                }
                _ => {
                    others.said.push_back(ToCluster::Ask { node, place });
                    return Some(Parked {
                        request,
                        until_ms: now.mono_ms + UNHEARD_MS,
                        asked: true,
                    });
                }
            },
            Verdict::Busy => {
                let until_ms = former.map_or(now.mono_ms + BUSY_MS, |(until_ms, _)| until_ms);
                if until_ms > now.mono_ms {
                    return Some(Parked {
                        request,
                        until_ms,
                        asked: false,
                    });
                }
                // Its publisher sends it again.
                self.overflows += 1;
            }
        }
        None
    }

    fn decline(&mut self, request: &Request, grant: Grant) {
        let mut response = Vec::new();
        self.compositor
            .decline(grant, request.flow.peer, &request.bytes, &mut response);
        self.answer(request, response);
    }

    /// A publication that the others cannot be told of now. That a lease goes on is known all the same, and told later;
    /// anything new would be lost with this node.
    fn unkept(&mut self, now: Now, granted: Granted) {
        let Granted {
            request,
            grant,
            response,
        } = granted;
        if grant.kind() == Kind::Refreshed {
            self.compositor.commit_untold(now, grant);
            self.answer(&request, response);
        } else {
            self.decline(&request, grant);
        }
    }

    /// Judges again what waits.
    fn reconsider(&mut self, now: Now) {
        let parked = match &mut self.others {
            Some(others) => std::mem::take(&mut others.parked),
            None => return,
        };
        for parked in parked {
            let former = Some((parked.until_ms, parked.asked));
            let left = self.consider(now, parked.request, former);
            let others = self.others.as_mut().expect("it is not alone");
            others.parked.extend(left);
        }
    }

    /// Takes what other nodes know; whether all of it is known here now.
    fn learn(&mut self, now: Now, records: Vec<Record>) -> bool {
        let records = records.into_iter();
        let heard: Vec<Heard> = records
            .map(|record| self.compositor.merge(now, record))
            .collect();
        if heard.contains(&Heard::New) {
            self.reconsider(now);
        }
        !heard.contains(&Heard::Refused)
    }

    /// What other nodes say.
    pub fn hear(&mut self, now: Now, told: FromCluster) {
        let Some(others) = &mut self.others else {
            return;
        };
        match told {
            FromCluster::Records(records) => {
                self.learn(now, records);
            }
            FromCluster::Told {
                from,
                number,
                records,
            } => {
                // Who told it may answer 200 and die: it must be here by then.
                if self.learn(now, records) && number != UNCONFIRMED {
                    self.reply(from, Message::Told { number });
                }
            }
            FromCluster::Kept { ticket } => {
                if let Some(granted) = others.granted.remove(&ticket) {
                    self.compositor.commit(now, granted.grant);
                    self.answer(&granted.request, granted.response);
                    self.reconsider(now);
                }
            }
            FromCluster::Unkept { ticket } => {
                if let Some(granted) = others.granted.remove(&ticket) {
                    self.unkept(now, granted);
                    self.reconsider(now);
                }
            }
            FromCluster::Away => {
                others.is_away = true;
                self.compositor.set_stale(true);
                self.compositor.freeze();
                self.reconsider(now);
            }
            FromCluster::Twin(is_twin) => others.is_twin = is_twin,
            FromCluster::Live(live) => self.compositor.set_live(now, live),
            FromCluster::Synced => {
                others.is_whole = true;
                self.compositor.set_stale(false);
                if std::mem::replace(&mut others.is_away, false) {
                    self.compositor.thaw(now);
                    self.compositor.keep_again();
                }
            }
            // What it was told it is told again, what waits for it among that.
            FromCluster::Restarted => {
                others.is_twin = false;
                let granted = others.granted.iter();
                let keep = granted.map(|(ticket, granted)| keep(*ticket, &granted.grant));
                others.said.extend(keep);
                self.compositor.keep_again();
            }
            FromCluster::Asked { from, place } => {
                if let Some(record) = self.compositor.record(&place) {
                    let records = vec![record];
                    let message = Message::Tell {
                        number: UNCONFIRMED,
                        records,
                    };
                    self.reply(from, message);
                }
            }
            FromCluster::Pulled {
                from,
                number,
                after,
            } => {
                let is_whole = others.is_whole;
                let mut rest: VecDeque<Record> = self.compositor.records_after(after.as_ref());
                let records = batch(&mut rest);
                let message = Message::Page {
                    number,
                    is_last: rest.is_empty(),
                    is_whole,
                    records,
                };
                self.reply(from, message);
            }
        }
    }

    /// Who asked asks again if this does not come.
    fn reply(&mut self, to: SocketAddr, message: Message) {
        if let Some(others) = &mut self.others {
            others.said.push_back(ToCluster::Answer { to, message });
        }
    }

    /// What time has brought. To be called at [`Member::next_deadline`]; earlier or later does no harm. `load`: how busy this
    /// node is, in per cent, for it to tell when it looks at itself.
    pub fn tick(&mut self, now: Now, load: impl FnOnce() -> Option<u8>) {
        self.compositor.tick(now);
        let Some(others) = &mut self.others else {
            return;
        };
        if others
            .parked
            .iter()
            .any(|parked| parked.until_ms <= now.mono_ms)
        {
            self.reconsider(now);
        }
        let others = self.others.as_mut().expect("it is not alone");
        if now.mono_ms < others.looked_ms + LOOK_MS {
            return;
        }
        others.looked_ms = now.mono_ms;
        let may_tell = now.mono_ms >= others.announced_ms + LOAD_MS;
        let is_news = |told: u8, load: u8| may_tell && told.abs_diff(load) >= LOAD_STEP;
        if let Some(load) = load()
            && others.own.load.is_none_or(|told| is_news(told, load))
        {
            others.own.load = Some(load);
        }
        // Another's word of this node, or a former life's, may have been believed.
        let is_known = self.compositor.shows(&others.own);
        if !is_known || now.mono_ms >= others.announced_ms + ANNOUNCE_MS {
            self.announce(now);
        }
        self.compositor.check_nodes(now);
        self.ask_for_refused();
    }

    /// Asks for servers that there was no room for and now is: who told them tells them no more.
    fn ask_for_refused(&mut self) {
        let Some(others) = self.others.as_mut().filter(|others| !others.is_away) else {
            return;
        };
        let wanted = self.compositor.take_wanted().into_iter();
        let asks = wanted.map(|(node, place)| ToCluster::Ask { node, place });
        others.said.extend(asks);
    }

    /// When `tick` has something to do next, in monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let leases = self.compositor.next_deadline();
        let looks = self.others.as_ref().map(|others| {
            let parked = others.parked.iter().map(|parked| parked.until_ms);
            parked.fold(others.looked_ms + LOOK_MS, u64::min)
        });
        leases.into_iter().chain(looks).min()
    }

    /// Says what this node is.
    fn announce(&mut self, now: Now) {
        if let Some(others) = &mut self.others
            && !others.is_twin
        {
            others.announced_ms = now.mono_ms;
            self.compositor.announce(now, &others.own);
        }
    }

    /// This node takes no new work from now on.
    pub fn drain(&mut self, now: Now) {
        if let Some(others) = &mut self.others {
            others.own.status = Status::Draining;
        }
        self.announce(now);
    }

    /// This node is gone.
    pub fn retire(&mut self, now: Now) {
        if let Some(others) = &self.others
            && !others.is_twin
        {
            self.compositor.retire(now, &others.own.id);
        }
    }

    /// What is to be answered now. Views are to be with the subscribers first: nobody is told 200 who then could see an older
    /// one.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Gives the engine what it is to be told, in order, until it has no room: the rest waits.
    pub fn say(&mut self, mut tell: impl FnMut(ToCluster) -> Result<(), ToCluster>) {
        let Some(others) = &mut self.others else {
            return;
        };
        let compositor = &mut self.compositor;
        let said = [
            some(compositor.take_released()).map(ToCluster::Release),
            some(compositor.take_dropped()).map(ToCluster::Forget),
            some(compositor.take_orphans()).map(ToCluster::Hold),
            some(compositor.take_untold()).map(ToCluster::Tell),
            some(compositor.take_accused()).map(ToCluster::Accuse),
        ];
        others.said.extend(said.into_iter().flatten());
        while let Some(message) = others.said.pop_front() {
            if let Err(back) = tell(message) {
                return others.said.push_front(back);
            }
        }
    }
}

fn keep(ticket: u64, grant: &Grant) -> ToCluster {
    ToCluster::Keep {
        ticket,
        record: Box::new(grant.record().clone()),
        everyone: grant.kind() != Kind::Refreshed || grant.expires_s() < BRIEF_S,
    }
}

fn some<T>(many: Vec<T>) -> Option<Vec<T>> {
    (!many.is_empty()).then_some(many)
}
