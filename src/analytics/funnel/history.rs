//! The incremental form of the machine: an actor's hits may arrive in any order.
//!
//! Hits are kept in segments. Each segment also keeps the machine as it is after the segment's last hit. A hit that
//! comes after all others advances the machine of the last segment. A late hit makes the hits after it run again. The
//! run begins at the episode that encloses the late hit, or else at the beginning of the segment. The run ends as
//! soon as it meets the result of the last run again: an episode opens at the same hit, or a segment ends with the same
//! machine. The hits beyond that point cannot have another result.
//!
//! A chain lives for one window. So at most the hits within one window after the late hit, and one segment on either
//! side, run again. Usually far fewer hits run again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::machine::{Chain, Hit, Machine, Opening, Rule};
use super::segment::{Episode, MAX_SEGMENT_HITS, Segment, first_furthest};

/// The store of an actor's segments, in the order of their first hits.
pub trait Segments {
    /// The error of the store.
    type Error;

    /// Returns the last segment that begins at this position or earlier.
    ///
    /// # Errors
    /// Returns an error of the store, as all methods of this trait do.
    fn holding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Self::Error>;

    /// Returns the last segment that begins before this position.
    fn preceding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Self::Error>;

    /// Returns the first segment that begins after this position.
    fn following(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, Self::Error>;

    /// Returns the furthest chain of an episode, among the segments in which the episode continues. If several chains
    /// got equally far, returns the first.
    fn furthest(&mut self, opening: &Opening) -> Result<Option<Chain>, Self::Error>;

    /// Writes a segment. Replaces the segment with the same first hit.
    fn put(&mut self, segment: &Segment) -> Result<(), Self::Error>;

    /// Deletes the segment that begins with this hit.
    fn delete(&mut self, first: &Hit) -> Result<(), Self::Error>;

    /// Changes the opening of an episode from `before` to `after` in the segments in which the episode continues.
    /// Begins with the segment whose first hit is `first`.
    fn rename(&mut self, first: &Hit, before: &Opening, after: &Opening) -> Result<(), Self::Error>;
}

/// The hits of an actor in a funnel.
#[derive(Debug)]
pub struct History<'a, S> {
    segments: &'a mut S,
    rule: Rule,
    max_hits: usize,
    hits_run: u64,
    /// The segments of the last insert. Most episodes that a caller asks for begin in them.
    written: Vec<Segment>,
}

/// The machine before a segment's first hit, and the episode that is open there.
struct Before {
    machine: Machine,
    open: Option<Opening>,
}

impl Before {
    fn after(segment: Option<&Segment>) -> Self {
        let open = segment.and_then(Segment::open_at_end).cloned();
        Self { machine: segment.map(|segment| segment.after.clone()).unwrap_or_default(), open }
    }
}

impl<'a, S: Segments> History<'a, S> {
    /// Opens the history that is kept in `segments`.
    pub fn new(segments: &'a mut S, rule: Rule) -> Self {
        Self { segments, rule, max_hits: MAX_SEGMENT_HITS, hits_run: 0, written: Vec::new() }
    }

    /// Sets the maximum length of a segment.
    #[cfg(test)]
    pub fn with_max_hits(self, max_hits: usize) -> Self {
        Self { max_hits, ..self }
    }

    /// Returns how many hits the machine took: one for each new hit in order, more if hits ran again.
    pub fn hits_run(&self) -> u64 {
        self.hits_run
    }

    /// Adds new hits. Returns the openings of the episodes that appeared, disappeared, or now have another furthest
    /// chain.
    ///
    /// # Errors
    /// Returns an error of the store.
    pub fn insert(&mut self, mut hits: Vec<Hit>) -> Result<BTreeSet<Opening>, S::Error> {
        self.written.clear();
        hits.sort_unstable();
        let mut hits: VecDeque<Arc<Hit>> = hits.into_iter().map(Arc::new).collect();
        let mut changed = BTreeSet::new();
        // The segment that must run again because the state before it changed, and the new state.
        let mut carried: Option<(Segment, Before)> = None;
        loop {
            let (old, before) = match (carried.take(), hits.front()) {
                (Some((segment, before)), _) => (segment, Some(before)),
                (None, Some(hit)) => (self.segment_for(hit)?, None),
                (None, None) => return Ok(changed),
            };
            let next = match old.hits.first() {
                Some(first) => self.segments.following(first.position())?,
                None => None,
            };
            let is_earlier = |hit: &Arc<Hit>| next.as_ref().is_none_or(|next| *hit < next.hits[0]);
            let count = hits.iter().take_while(|hit| is_earlier(hit)).count();
            let new: Vec<Arc<Hit>> = hits.drain(..count).collect();
            let segments = self.run(&old, new, before)?;
            self.put(&old, &segments, &mut changed)?;
            if let Some(next) = next {
                carried = self.carry(&old, &segments, next, &mut changed)?;
            }
            self.written.extend(segments);
        }
    }

    /// Returns the segment that a hit belongs to. Returns an empty segment if the actor has none yet.
    fn segment_for(&mut self, hit: &Hit) -> Result<Segment, S::Error> {
        let holding = self.segments.holding(hit.position())?;
        let found = if holding.is_some() { holding } else { self.segments.following(hit.position())? };
        Ok(found.unwrap_or_default())
    }

    /// Adds new hits to a segment and runs them. Returns one segment, or several if the segment grew too long.
    fn run(&mut self, old: &Segment, new: Vec<Arc<Hit>>, before: Option<Before>) -> Result<Vec<Segment>, S::Error> {
        let first_new = new.first().map(Arc::clone);
        if before.is_none() && old.hits.last() < first_new.as_ref() {
            return Ok(self.append(old.clone(), new));
        }
        let last_new = new.last().map(Arc::clone);
        let mut hits: Vec<Arc<Hit>> = old.hits.iter().cloned().chain(new).collect();
        hits.sort();
        let enclosing = old.pieces.iter().rposition(|piece| {
            !piece.continues && first_new.as_ref().is_some_and(|hit| piece.opening.position() < hit.position())
        });
        if let Some(piece) = enclosing.filter(|_| before.is_none() && hits.len() <= self.max_hits) {
            let opening = old.pieces[piece].opening.position();
            let from = hits.partition_point(|hit| hit.position() < opening);
            let kept = Segment {
                hits: hits.drain(..from).collect(),
                pieces: old.pieces[..piece].to_vec(),
                after: Machine::default(),
            };
            return Ok(vec![self.run_on(kept, hits, old, last_new)]);
        }
        let mut before = match before {
            Some(before) => before,
            None => {
                let earlier = old.hits.first().map(|first| self.segments.preceding(first.position())).transpose()?;
                Before::after(earlier.flatten().as_ref())
            }
        };
        if hits.len() <= self.max_hits {
            let kept = self.begin(before, &hits[0]);
            return Ok(vec![self.run_on(kept, hits, old, last_new)]);
        }
        let parts = hits.len().div_ceil(self.max_hits);
        let mut segments = Vec::with_capacity(parts);
        for part in hits.chunks(hits.len().div_ceil(parts)) {
            let mut segment = self.begin(before, &part[0]);
            part.iter().for_each(|hit| self.feed(&mut segment, Arc::clone(hit)));
            before = Before::after(Some(&segment));
            segments.push(segment);
        }
        Ok(segments)
    }

    fn begin(&self, before: Before, first: &Hit) -> Segment {
        Segment::begin(before.machine.as_of(first.timestamp_ms, self.rule), before.open)
    }

    fn feed(&mut self, segment: &mut Segment, hit: Arc<Hit>) {
        self.hits_run += 1;
        segment.feed(hit, self.rule);
    }

    /// Adds hits that come after all others of their segment and before the next segment.
    fn append(&mut self, segment: Segment, new: Vec<Arc<Hit>>) -> Vec<Segment> {
        let (mut segments, mut last) = (Vec::new(), segment);
        for hit in new {
            if last.hits.len() >= self.max_hits {
                let next = self.begin(Before::after(Some(&last)), &hit);
                segments.push(std::mem::replace(&mut last, next));
            }
            self.feed(&mut last, hit);
        }
        segments.push(last);
        segments
    }

    /// Runs the rest of a segment's hits. Stops at an episode that opens as it did before, after all new hits. From
    /// there on, copies the result from `old`.
    fn run_on(
        &mut self,
        mut segment: Segment,
        hits: Vec<Arc<Hit>>,
        old: &Segment,
        last_new: Option<Arc<Hit>>,
    ) -> Segment {
        let is_later = |opening: &Opening| last_new.as_ref().is_none_or(|hit| opening.position() > hit.position());
        let same = |hit: &Hit| {
            let piece = old.pieces.iter().position(|piece| !piece.continues && piece.opening == hit.opening());
            piece.filter(|at| hit.step == 1 && is_later(&old.pieces[*at].opening))
        };
        let mut hits = hits.into_iter();
        while let Some(hit) = hits.next() {
            segment.after.pass(hit.timestamp_ms, self.rule);
            if !segment.after.is_open()
                && let Some(piece) = same(&hit)
            {
                segment.hits.push(hit);
                segment.hits.extend(hits);
                segment.pieces.extend_from_slice(&old.pieces[piece..]);
                segment.after = old.after.clone();
                return segment;
            }
            self.feed(&mut segment, hit);
        }
        segment
    }

    /// Writes the segments that differ from `old`. Deletes `old` if no segment has its first hit any more. Adds the
    /// episodes that changed to `changed`.
    fn put(&mut self, old: &Segment, now: &[Segment], changed: &mut BTreeSet<Opening>) -> Result<(), S::Error> {
        if let Some(first) = old.hits.first()
            && now.iter().all(|segment| segment.hits[0] != *first)
        {
            self.segments.delete(first)?;
        }
        for segment in now.iter().filter(|segment| *segment != old) {
            self.segments.put(segment)?;
        }
        let (was, is) = (Segment::summary(std::slice::from_ref(old)), Segment::summary(now));
        let differs = |opening: &&&Opening| was.get(*opening) != is.get(*opening);
        changed.extend(was.keys().chain(is.keys()).filter(differs).map(|opening| (*opening).clone()));
        Ok(())
    }

    /// Applies the change to the next segment. If the segment must run again, returns it with the state before it. If
    /// only the opening of its open episode changed, renames that episode. Otherwise does nothing.
    fn carry(
        &mut self,
        old: &Segment,
        now: &[Segment],
        next: Segment,
        changed: &mut BTreeSet<Opening>,
    ) -> Result<Option<(Segment, Before)>, S::Error> {
        let (was, is) = (Before::after(Some(old)), Before::after(now.last()));
        let at_ms = next.hits[0].timestamp_ms;
        let machine = is.machine.as_of(at_ms, self.rule);
        if was.machine.as_of(at_ms, self.rule) != machine {
            return Ok(Some((next, is)));
        }
        if let (true, Some(was), Some(is)) = (machine.is_open(), was.open, is.open)
            && was != is
        {
            self.segments.rename(&next.hits[0], &was, &is)?;
            changed.extend([was, is]);
        }
        Ok(None)
    }

    /// Returns the episode with this opening. `None` if no episode opens there any more.
    ///
    /// # Errors
    /// Returns an error of the store.
    pub fn episode(&mut self, opening: &Opening) -> Result<Option<Episode>, S::Error> {
        let stored;
        let segment = match self.written.iter().find(|segment| segment.beginning(opening).is_some()) {
            Some(written) => written,
            None => match self.segments.holding(opening.position())? {
                Some(segment) => {
                    stored = segment;
                    &stored
                }
                None => return Ok(None),
            },
        };
        let Some(piece) = segment.beginning(opening) else { return Ok(None) };
        let mut best = piece.best.clone();
        if segment.open_at_end() == Some(opening) {
            best = first_furthest(best, self.segments.furthest(opening)?);
        }
        Ok(best.map(|best| Episode { opening: opening.clone(), is_completed: best.step() == self.rule.steps, best }))
    }
}
