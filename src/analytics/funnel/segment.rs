//! Segments: consecutive hits of an actor, and the results of the machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::machine::{Chain, Fate, Hit, Machine, Opening, Rule, Slot};
use crate::analytics::State;

/// The maximum number of hits in a segment.
pub const MAX_SEGMENT_HITS: usize = 64;

/// A row of `funnel_conversions`.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// The hit that opened the episode.
    pub opening: Opening,
    /// The chain that was the first to reach the furthest step.
    pub best: Chain,
    /// Whether the furthest step is the last step of the funnel.
    pub is_completed: bool,
}

/// The part of an episode that lies in one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The hit that opened the episode.
    pub opening: Opening,
    /// Whether the episode was open when the segment began.
    pub continues: bool,
    /// Among the chains that began or were extended in this segment: the first to reach the furthest step.
    pub best: Option<Chain>,
}

/// Consecutive hits, and the results of the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segment {
    pub(super) hits: Vec<Arc<Hit>>,
    /// The pieces in the order of time. An episode that was open when the segment began comes first.
    pub(super) pieces: Vec<Piece>,
    /// The machine after the last hit.
    pub(super) after: Machine,
}

impl Segment {
    /// Creates a segment without hits. If `machine` has an open episode, that episode continues in the segment.
    pub(super) fn begin(machine: Machine, open: Option<Opening>) -> Self {
        let open = open.filter(|_| machine.is_open());
        let pieces = open.map(|opening| Piece { opening, continues: true, best: None });
        Self { hits: Vec::new(), pieces: pieces.into_iter().collect(), after: machine }
    }

    /// Puts all hits of an actor into one segment: the plain form. Calls `told` with each hit and its effect.
    pub fn of_all(mut hits: Vec<Hit>, rule: Rule, mut told: impl FnMut(&Arc<Hit>, &Fate)) -> Self {
        hits.sort_unstable();
        let mut segment = Self::default();
        for hit in hits {
            let hit = Arc::new(hit);
            let fate = segment.feed(Arc::clone(&hit), rule);
            told(&hit, &fate);
        }
        segment
    }

    /// Adds the next hit. Returns the effect of the hit.
    pub(super) fn feed(&mut self, hit: Arc<Hit>, rule: Rule) -> Fate {
        let fate = self.after.advance(&hit, rule);
        match &fate {
            Fate::Opened => {
                let best = Chain::from_hits(vec![Arc::clone(&hit)]);
                self.pieces.push(Piece { opening: hit.opening(), continues: false, best });
            }
            Fate::Filled(chain) | Fate::Completed(chain) => {
                if let Some(piece) = self.pieces.last_mut() {
                    piece.best = first_furthest(piece.best.take(), Some(chain.clone()));
                }
            }
            Fate::NothingOpen | Fate::NothingToExtend(_) | Fate::NotLater => {}
        }
        self.hits.push(hit);
        fate
    }

    /// Returns whether the segment fits a funnel with this rule. The check is meant to find segments that were stored
    /// for another rule.
    pub fn is_of(&self, rule: Rule) -> bool {
        let is_step = |hit: &Arc<Hit>| (1..=rule.steps).contains(&hit.step);
        let slots = &self.after.slots;
        let are_slots = slots.is_empty() || slots.len() == usize::from(rule.steps);
        let is_open = slots.first().is_none_or(|slot| slot.now.is_some());
        let of_slots = slots.iter().flat_map(|slot| slot.now.iter().chain(&slot.before));
        let of_pieces = self.pieces.iter().filter_map(|piece| piece.best.as_ref());
        let are_chains = of_slots.chain(of_pieces).all(|chain| chain.step() <= rule.steps);
        let has_piece = slots.is_empty() || !self.pieces.is_empty();
        self.hits.iter().all(is_step) && are_slots && is_open && are_chains && has_piece
    }

    /// Returns the first hit. A stored segment always has a first hit.
    pub fn first(&self) -> &Hit {
        &self.hits[0]
    }

    /// Returns the hits, in order.
    pub fn hits(&self) -> &[Arc<Hit>] {
        &self.hits
    }

    /// Returns the pieces of episodes, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the episodes. The segment must hold all hits of an actor.
    pub fn episodes(&self, rule: Rule) -> Vec<Episode> {
        let episode = |piece: &Piece| {
            let best = piece.best.clone()?;
            Some(Episode { opening: piece.opening.clone(), is_completed: best.step() == rule.steps, best })
        };
        self.pieces.iter().filter_map(episode).collect()
    }

    /// Returns the episode that was open when the segment began.
    pub fn continued(&self) -> Option<&Piece> {
        self.pieces.first().filter(|piece| piece.continues)
    }

    /// Returns the episode with this opening. `None` if the episode does not begin in this segment.
    pub(super) fn beginning(&self, opening: &Opening) -> Option<&Piece> {
        self.pieces.iter().find(|piece| !piece.continues && piece.opening == *opening)
    }

    /// Sets the opening of the episode that was open when the segment began.
    #[must_use]
    pub fn with_continued(mut self, opening: Opening) -> Self {
        if let Some(piece) = self.pieces.first_mut().filter(|piece| piece.continues) {
            piece.opening = opening;
        }
        self
    }

    /// Returns the episode that is open after the last hit.
    pub(super) fn open_at_end(&self) -> Option<&Opening> {
        self.pieces.last().filter(|_| self.after.is_open()).map(|piece| &piece.opening)
    }

    /// Returns for each episode whether it begins in these segments, and its furthest chain in them.
    pub(super) fn summary(segments: &[Self]) -> BTreeMap<&Opening, (bool, Option<&Chain>)> {
        let mut summary: BTreeMap<&Opening, (bool, Option<&Chain>)> = BTreeMap::new();
        for piece in segments.iter().flat_map(|segment| &segment.pieces) {
            let (begins, best) = summary.entry(&piece.opening).or_default();
            *begins |= !piece.continues;
            if best.map(Chain::step) < piece.best.as_ref().map(Chain::step) {
                *best = piece.best.as_ref();
            }
        }
        summary
    }
}

/// Returns the chain that got further. If both chains got equally far, returns `one`, the earlier chain.
pub(super) fn first_furthest(one: Option<Chain>, later: Option<Chain>) -> Option<Chain> {
    if later.as_ref().map(Chain::step) > one.as_ref().map(Chain::step) { later } else { one }
}

/// The stored form of a segment. Each hit is stored once, the segment's own hits first. A chain is stored as the
/// places of its hits in `hits`.
#[derive(Serialize, Deserialize)]
struct SegmentBytes<H> {
    hits: Vec<H>,
    /// How many of the hits are the segment's own. The other hits belong to earlier segments.
    own: u16,
    /// For each piece: the place of its opening, `None` for the episode that continues, and the best chain.
    pieces: Vec<(Option<u16>, Vec<u16>)>,
    slots: Vec<SlotBytes>,
}

/// A slot: the chain now, the time when it changed, and the chain before. An empty list means no chain.
type SlotBytes = (Vec<u16>, Option<i64>, Vec<u16>);

/// The places of hits while a segment is written.
struct Places<'a> {
    hits: Vec<&'a Hit>,
    by_hit: HashMap<*const Hit, u16>,
}

impl<'a> Places<'a> {
    fn of(&mut self, hit: &'a Arc<Hit>) -> u16 {
        *self.by_hit.entry(Arc::as_ptr(hit)).or_insert_with(|| {
            self.hits.push(hit);
            u16::try_from(self.hits.len() - 1).unwrap_or(u16::MAX)
        })
    }

    fn chain(&mut self, chain: Option<&'a Chain>) -> Vec<u16> {
        chain.map(Chain::hits).unwrap_or_default().iter().map(|hit| self.of(hit)).collect()
    }
}

impl State for Segment {
    const VERSION: u8 = 1;

    fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut places = Places { hits: Vec::new(), by_hit: HashMap::new() };
        for hit in &self.hits {
            places.of(hit);
        }
        let own = u16::try_from(self.hits.len()).unwrap_or(u16::MAX);
        let place_of = |opening: &Opening| {
            let at = self.hits.binary_search_by(|hit| hit.position().cmp(&opening.position()));
            at.ok().and_then(|at| u16::try_from(at).ok())
        };
        let pieces: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| {
                let opening = if piece.continues { None } else { place_of(&piece.opening) };
                (opening, places.chain(piece.best.as_ref()))
            })
            .collect();
        let slots: Vec<_> = self
            .after
            .slots
            .iter()
            .map(|slot| (places.chain(slot.now.as_ref()), slot.changed_at_ms, places.chain(slot.before.as_ref())))
            .collect();
        let stored = SegmentBytes { hits: places.hits, own, pieces, slots };
        // Writing numbers and texts into a vector cannot fail.
        postcard::to_extend(&stored, bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = postcard::take_from_bytes::<SegmentBytes<Hit>>(bytes).ok()?;
        let SegmentBytes { hits, own, pieces, slots } = stored;
        let mut hits: Vec<Arc<Hit>> = hits.into_iter().map(Arc::new).collect();
        // The outer `None` means a place that does not exist. The inner `None` means no chain.
        let chain = |places: &[u16]| -> Option<Option<Chain>> {
            let of_chain: Option<Vec<_>> = places.iter().map(|at| hits.get(usize::from(*at)).cloned()).collect();
            of_chain.map(Chain::from_hits)
        };
        let unnamed = Opening { timestamp_ms: i64::MIN, event_id: String::new() };
        let piece = |(opening, best): &(Option<u16>, Vec<u16>)| {
            let opened = match opening {
                Some(at) => hits.get(usize::from(*at))?.opening(),
                None => unnamed.clone(),
            };
            Some(Piece { opening: opened, continues: opening.is_none(), best: chain(best)? })
        };
        let pieces = pieces.iter().map(piece).collect::<Option<Vec<_>>>()?;
        let slot = |(now, changed_at_ms, before): &SlotBytes| {
            Some(Slot { now: chain(now)?, changed_at_ms: *changed_at_ms, before: chain(before)? })
        };
        let slots = slots.iter().map(slot).collect::<Option<Vec<_>>>()?;
        let is_whole = rest.is_empty() && usize::from(own) <= hits.len() && own > 0;
        hits.truncate(usize::from(own));
        is_whole.then_some(Self { hits, pieces, after: Machine { slots } })
    }
}
