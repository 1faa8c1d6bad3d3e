//! What subscriptions look at: a domain's view, through a filter, in a format; with the last views, from which changes
//! are told. Knows no subscription but how many use an interest.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::info::{Filter, Format, Projection, View};

/// How many views back a change can be told from; an older base gets a full document.
pub const VIEWS_KEPT: usize = 64;
/// At most this many distinct filters over all domains and formats. Who asks for no filter is never turned away by those
/// who do.
pub const MOST_INTERESTS: usize = 256;

/// XML and JSON.
const FORMATS: usize = 2;

/// One way to look at one domain.
#[derive(Debug)]
pub struct Interest {
    /// Never used twice, so that bodies of a former interest are not taken for this one's.
    pub uid: u64,
    pub domain: u16,
    pub format: Format,
    filter: Option<Arc<Filter>>,
    users: u32,
    /// The last views, oldest first; never empty.
    views: VecDeque<Projection>,
    tag: u64,
}

impl Interest {
    pub fn current(&self) -> &Projection {
        self.views
            .back()
            .expect("an interest has a view from its first moment")
    }

    /// The view with this revision, if it is still kept.
    pub fn at(&self, revision: u64) -> Option<&Projection> {
        let place = self
            .views
            .binary_search_by_key(&revision, |projection| projection.view().revision)
            .ok()?;
        self.views.get(place)
    }

    /// The entity-tag of the current view (RFC 5839 6.1: one tag, one presentation).
    pub fn tag(&self) -> u64 {
        self.tag
    }

    fn learn(&mut self, view: &Arc<View>) {
        let next = Projection::new(view.clone(), self.filter.clone(), self.views.back());
        self.tag = next.tag(self.format);
        // What a stale document left out a subscriber kept, so only the full state says what there is, and what may be
        // unknown.
        let former = self.views.back();
        if former.is_some_and(|former| former.view().stale != view.stale) {
            self.views.clear();
        } else if self.views.len() == VIEWS_KEPT {
            self.views.pop_front();
        }
        self.views.push_back(next);
    }
}

/// All interests of a shard, over the domains it serves.
#[derive(Debug)]
pub struct Interests {
    views: Vec<Arc<View>>,
    slots: Vec<Option<Interest>>,
    /// Of interests with a filter.
    numbers: HashMap<(u16, Arc<Filter>, Format), u16>,
    /// Of those without, for each domain in each format.
    whole: Vec<[Option<u16>; FORMATS]>,
    made: u64,
}

impl Interests {
    /// One view for each domain, in the order of the configuration.
    pub fn new(views: Vec<Arc<View>>) -> Self {
        Interests {
            whole: vec![[None; FORMATS]; views.len()],
            views,
            slots: Vec::new(),
            numbers: HashMap::new(),
            made: 0,
        }
    }

    /// The interest's number, with one more user; `None` when there are too many.
    pub fn enter(
        &mut self,
        domain: u16,
        filter: Option<Arc<Filter>>,
        format: Format,
    ) -> Option<u16> {
        let known = match &filter {
            None => self.whole[usize::from(domain)][format as usize],
            Some(filter) => self.numbers.get(&(domain, filter.clone(), format)).copied(),
        };
        if let Some(number) = known {
            self.slots[usize::from(number)]
                .as_mut()
                .expect("numbered interests live")
                .users += 1;
            return Some(number);
        }
        if filter.is_some() && self.numbers.len() >= MOST_INTERESTS {
            return None;
        }
        let place = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        let number = u16::try_from(place).ok()?;
        self.made += 1;
        let mut interest = Interest {
            uid: self.made,
            domain,
            format,
            filter: filter.clone(),
            users: 1,
            views: VecDeque::new(),
            tag: 0,
        };
        interest.learn(&self.views[usize::from(domain)]);
        match self.slots.get_mut(place) {
            Some(slot) => *slot = Some(interest),
            None => self.slots.push(Some(interest)),
        }
        match filter {
            None => self.whole[usize::from(domain)][format as usize] = Some(number),
            Some(filter) => {
                self.numbers.insert((domain, filter, format), number);
            }
        }
        Some(number)
    }

    /// One user less; true when it was the last.
    pub fn leave(&mut self, number: u16) -> bool {
        let slot = &mut self.slots[usize::from(number)];
        let interest = slot.as_mut().expect("an interest lives while it is used");
        interest.users -= 1;
        if interest.users > 0 {
            return false;
        }
        if let Some(gone) = slot.take() {
            match gone.filter {
                None => self.whole[usize::from(gone.domain)][gone.format as usize] = None,
                Some(filter) => {
                    self.numbers.remove(&(gone.domain, filter, gone.format));
                }
            }
        }
        true
    }

    /// Interests in use.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub fn get(&self, number: u16) -> &Interest {
        self.slots[usize::from(number)]
            .as_ref()
            .expect("an interest lives while it is used")
    }

    pub fn filter(&self, number: u16) -> Option<Arc<Filter>> {
        self.get(number).filter.clone()
    }

    /// Takes a newer view of a domain; an older or equal one changes nothing.
    pub fn learn(&mut self, domain: u16, view: Arc<View>) -> bool {
        let known = &mut self.views[usize::from(domain)];
        if view.revision <= known.revision {
            return false;
        }
        for interest in self
            .slots
            .iter_mut()
            .flatten()
            .filter(|interest| interest.domain == domain)
        {
            interest.learn(&view);
        }
        *known = view;
        true
    }

    /// The uids and revisions of what is current, for the sweep of bodies.
    pub fn is_current(&self, uid: u64, revision: u64) -> bool {
        self.slots
            .iter()
            .flatten()
            .any(|interest| interest.uid == uid && interest.current().view().revision == revision)
    }
}
