//! Guesses of the tokens that follow a sequence: a chain, or a tree that offers several at one place.

use std::ops::Deref;

use crate::output::{MAX_TOKENS_PER_STEP, TokenList};
use crate::request::TokenId;

/// At most [`MAX_TOKENS_PER_STEP`] - 1 tokens, each after the known tokens or after one before it. So its first ones are a tree
/// as well.
#[derive(Copy, Clone, Default, Debug)]
pub struct DraftTree {
    tokens: TokenList,
    parents: [u8; MAX_TOKENS_PER_STEP - 1],
}

impl DraftTree {
    pub const EMPTY: Self =
        Self { tokens: TokenList::EMPTY, parents: [0; MAX_TOKENS_PER_STEP - 1] };

    /// The next of a chain.
    pub fn push(&mut self, token: TokenId) {
        self.push_after(self.len() as u8, token);
    }

    /// A token after draft `parent`, counted from 1; 0: after the known tokens. Panics when no more fit.
    pub fn push_after(&mut self, parent: u8, token: TokenId) {
        let num_tokens = self.len();
        assert!(usize::from(parent) <= num_tokens, "a draft comes after what it follows");
        self.parents[num_tokens] = parent;
        self.tokens.push(token);
    }

    /// For each draft which one it follows.
    pub fn parents(&self) -> &[u8] {
        &self.parents[..self.len()]
    }

    /// Whether each follows the one before it.
    pub fn is_chain(&self) -> bool {
        is_chain(self.parents())
    }

    /// Its first drafts.
    #[must_use]
    pub fn first(&self, num_drafts: usize) -> Self {
        let mut first = Self::EMPTY;
        let own = self.iter().zip(self.parents()).take(num_drafts);
        own.for_each(|(&token, &parent)| first.push_after(parent, token));
        first
    }

    /// The chain of the first draft after the known tokens, the first one after that, and so on.
    #[must_use]
    pub fn likeliest_way(&self) -> Self {
        let (mut way, mut last) = (Self::EMPTY, 0);
        for ((number, &token), &parent) in (1..).zip(self.iter()).zip(self.parents()) {
            if parent == last {
                way.push(token);
                last = number;
            }
        }
        way
    }

    /// Which of the drafts are right, given the tokens that came; `None`: those do not say.
    pub fn right(&self, tokens: &[TokenId]) -> [Option<bool>; MAX_TOKENS_PER_STEP - 1] {
        let (mut right, mut depths) = ([None; MAX_TOKENS_PER_STEP - 1], [0; MAX_TOKENS_PER_STEP]);
        for (index, (token, &parent)) in self.iter().zip(self.parents()).enumerate() {
            let parent = usize::from(parent);
            let depth = depths[parent];
            depths[index + 1] = depth + 1;
            let follows = if parent == 0 { Some(true) } else { right[parent - 1] };
            right[index] = match follows {
                Some(true) => tokens.get(depth).map(|came| came == token),
                other => other,
            };
        }
        right
    }
}

/// Whether each draft follows the one before it.
pub fn is_chain(parents: &[u8]) -> bool {
    parents.iter().enumerate().all(|(index, &parent)| usize::from(parent) == index)
}

impl Deref for DraftTree {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        &self.tokens
    }
}

impl FromIterator<TokenId> for DraftTree {
    fn from_iter<I: IntoIterator<Item = TokenId>>(tokens: I) -> Self {
        let mut chain = Self::EMPTY;
        tokens.into_iter().for_each(|token| chain.push(token));
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_says_which_drafts_are_right() {
        let mut tree = DraftTree::EMPTY;
        for (parent, token) in [(0, 5), (0, 6), (2, 7), (1, 7), (3, 8), (2, 9), (4, 8)] {
            tree.push_after(parent, token);
        }
        assert!(!tree.is_chain() && tree.first(1).is_chain());
        assert_eq!(&*tree.first(3), [5, 6, 7]);
        assert_eq!(tree.first(3).parents(), [0, 0, 2]);
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(tree.right(&[6, 7, 1]), [no, yes, yes, no, no, no, no]);
        assert_eq!(tree.right(&[5]), [yes, no, no, None, no, no, None]);
        assert_eq!(tree.right(&[]), [None; 7]);
        assert_eq!(&*tree.likeliest_way(), [5, 7, 8]);
        let chain: DraftTree = [1, 2, 3].into_iter().collect();
        assert!(chain.is_chain());
        assert_eq!(chain.right(&[1, 9, 3])[..3], [yes, no, no]);
    }
}
