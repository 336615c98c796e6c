//! The longest suffix of a text that occurred in it before, and where, kept up with each token in constant time on average
//! (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text").

use std::collections::HashMap;

use quire_scheduler::TokenId;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Shorter suffixes than so many steps along the links keep an older place: it bounds the time of one token.
const MOST_LINKS: usize = 32;

/// A set of texts that end at the same places.
#[derive(Clone, Copy)]
struct State {
    /// Tokens of the longest of them.
    len: u32,
    /// The state of the longest suffix that also ends elsewhere.
    link: u32,
    /// Where they ended last: the number of tokens up to there.
    end: u32,
    /// Head of the list of tokens that follow.
    follower: u32,
}

/// A token that follows the texts of a state; the target is in `edges`.
#[derive(Clone, Copy)]
struct Follower {
    token: TokenId,
    next: u32,
}

/// The longest suffix that occurred before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Its tokens; 0: the last token is new.
    pub len: u32,
    /// The text's tokens up to the end of its last occurrence before.
    pub end: u32,
}

pub struct SuffixAutomaton {
    states: Vec<State>,
    followers: Vec<Follower>,
    /// From a state and a token to a state. Tokens are a client's choice, so the hash is a keyed one.
    edges: HashMap<(u32, TokenId), u32>,
    /// The state of the whole text.
    last: u32,
    longest: Match,
}

impl Default for SuffixAutomaton {
    fn default() -> Self {
        let root = State { len: 0, link: NONE, end: 0, follower: NONE };
        Self {
            states: vec![root],
            followers: Vec::new(),
            edges: HashMap::new(),
            last: ROOT,
            longest: Match::default(),
        }
    }
}

impl SuffixAutomaton {
    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.states[self.last as usize].len as usize
    }

    /// As of the last token.
    pub fn longest_match(&self) -> Match {
        self.longest
    }

    /// Appends a token.
    pub fn push(&mut self, token: TokenId) {
        let end = self.states[self.last as usize].len + 1;
        let new = self.add_state(State { len: end, link: ROOT, end, follower: NONE });
        let mut state = self.last;
        while state != NONE && !self.edges.contains_key(&(state, token)) {
            self.add_edge(state, token, new);
            state = self.states[state as usize].link;
        }
        if state != NONE {
            self.states[new as usize].link = self.suffix_state(state, token);
        }
        self.last = new;
        let link = self.states[new as usize].link;
        let State { len, end: last_end, .. } = self.states[link as usize];
        self.longest = Match { len, end: last_end };
        let mut suffix = link;
        for _ in 0..MOST_LINKS {
            if suffix == ROOT {
                break;
            }
            self.states[suffix as usize].end = end;
            suffix = self.states[suffix as usize].link;
        }
    }

    /// The state of exactly the texts up to the longest of `state` and `token`, which it has an edge for.
    fn suffix_state(&mut self, mut state: u32, token: TokenId) -> u32 {
        let target = self.edges[&(state, token)];
        let len = self.states[state as usize].len + 1;
        if self.states[target as usize].len == len {
            return target;
        }
        let copy = self.add_state(State { len, follower: NONE, ..self.states[target as usize] });
        let mut follower = self.states[target as usize].follower;
        while follower != NONE {
            let Follower { token, next } = self.followers[follower as usize];
            self.add_edge(copy, token, self.edges[&(target, token)]);
            follower = next;
        }
        while state != NONE && self.edges.get(&(state, token)) == Some(&target) {
            self.edges.insert((state, token), copy);
            state = self.states[state as usize].link;
        }
        self.states[target as usize].link = copy;
        copy
    }

    fn add_state(&mut self, state: State) -> u32 {
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    fn add_edge(&mut self, from: u32, token: TokenId, to: u32) {
        let state = &mut self.states[from as usize];
        self.followers.push(Follower { token, next: state.follower });
        state.follower = self.followers.len() as u32 - 1;
        self.edges.insert((from, token), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By trying every suffix and every place.
    fn plain(text: &[TokenId]) -> Match {
        let occurs = |len: usize| {
            let suffix = &text[text.len() - len..];
            (len..text.len()).rev().find(|&end| text[end - len..end] == *suffix)
        };
        let longest = (1..text.len()).rev().find_map(|len| Some((len, occurs(len)?)));
        longest.map_or(Match::default(), |(len, end)| Match { len: len as u32, end: end as u32 })
    }

    #[test]
    fn it_finds_what_trying_everything_finds() {
        for vocabulary in [1, 2, 3, 10] {
            let mut automaton = SuffixAutomaton::default();
            let (mut text, mut number) = (Vec::new(), 12345_u32);
            // Before links are too many to follow, places are exactly the last ones.
            for _ in 0..if vocabulary == 1 { 30 } else { 300 } {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push((number >> 16) % vocabulary);
                automaton.push(text[text.len() - 1]);
                assert_eq!(automaton.len(), text.len());
                assert_eq!(automaton.longest_match(), plain(&text), "{vocabulary}: {text:?}");
            }
        }
    }

    #[test]
    fn one_token_again_and_again_takes_linear_time_and_still_matches() {
        let mut automaton = SuffixAutomaton::default();
        (0..100_000).for_each(|_| automaton.push(7));
        let Match { len, end } = automaton.longest_match();
        assert_eq!(len, 99_999);
        assert!((1..100_000).contains(&end));
        assert!(automaton.states.len() <= 200_000 && automaton.edges.len() <= 300_000);
    }
}
