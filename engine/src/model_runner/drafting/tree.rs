//! Trees of drafts by an EAGLE head (EAGLE-2, Li et al. 2024): level after level the likeliest nodes are followed, and the
//! likeliest of all are kept. How likely a node is: the product of what the head gave it and its ancestors.

use quire_kernels::{Device, SampleRow, copy_rows, gather_rows, sample};
use quire_scheduler::DraftTree;

use super::{DraftHead, Drafting, Guess, HeadWorkspace, KvCache, MAX_LOGITS_ROWS, Vocabulary};

/// A tree in the making.
struct Growing {
    nodes: Vec<Node>,
    /// The place of the first node that is followed, and how many were.
    start: usize,
    num_followed: usize,
    /// Nodes that are wanted.
    most: usize,
}

/// A token that may come.
struct Node {
    token: u32,
    /// `None`: it follows the known tokens.
    parent: Option<usize>,
    /// Logarithm of its chance, its ancestors' included.
    score: f32,
    depth: usize,
    /// Places of its ancestors and its own, once it is followed.
    path: Vec<u32>,
}

/// A row of the head: a tree, and the node that it follows.
type TreeRow = (usize, Option<usize>);

impl Drafting {
    /// A tree for each of those asks. Where the head's numbers are none, the levels before that.
    pub(super) fn draft_tree(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        guesses: &mut [Guess],
    ) {
        let mut trees: Vec<Growing> =
            self.asked_for.iter().map(|row| Growing::new(row.num_tokens - 1, row.most)).collect();
        let mut rows: Vec<TreeRow> = (0..trees.len()).map(|tree| (tree, None)).collect();
        let sources: Vec<u32> = self.asked_for.iter().map(|row| row.state).collect();
        let states = self.workspace.layer.residual.first_rows_mut(rows.len());
        gather_rows(at.0, states, self.states.view(), (&sources[..]).into());
        for depth in 0.. {
            if !self.add_children(at, &rows, &mut trees) {
                break;
            }
            let next = next_rows(&trees, &rows, (depth, self.topk));
            if next.is_empty() {
                break;
            }
            self.follow_nodes(at, kv, &next, &mut trees);
            rows = next.into_iter().map(|(row, _)| row).collect();
        }
        for (tree, asked) in trees.iter().zip(&self.asked_for) {
            guesses[asked.ask].drafts = tree.best();
        }
    }

    /// The likeliest tokens after each row, whose states are in `residual`; `false`: the head's numbers are none.
    fn add_children(
        &mut self,
        at: (&Device, &Vocabulary),
        rows: &[TreeRow],
        trees: &mut [Growing],
    ) -> bool {
        let n = rows.len();
        let HeadWorkspace { states, layer, .. } = &mut self.workspace;
        copy_rows(at.0, states.first_rows_mut(n), layer.residual.first_rows(n));
        self.head.logits(at, &mut self.workspace, n);
        let likeliest = SampleRow { num_logprobs: Some(self.topk as u32), ..SampleRow::default() };
        let logits = self.workspace.layer.logits.first_rows_mut(n);
        sample(at.0, &mut self.sampled[..n], logits, &[likeliest; MAX_LOGITS_ROWS][..n]);
        if !self.sampled[..n].iter().all(|sampled| sampled.finite) {
            return false;
        }
        for (&(tree, parent), sampled) in rows.iter().zip(&self.sampled) {
            for &(token, logprob) in &sampled.top {
                trees[tree].add(parent, self.head.to_target(token), logprob);
            }
        }
        true
    }

    /// The head goes on from these nodes, each from a row of the level before.
    fn follow_nodes(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        next: &[(TreeRow, u32)],
        trees: &mut [Growing],
    ) {
        let sources: Vec<u32> = next.iter().map(|(_, source)| *source).collect();
        let HeadWorkspace { states, layer, .. } = &mut self.workspace;
        gather_rows(
            at.0,
            states.first_rows_mut(next.len()),
            layer.residual.view(),
            (&sources[..]).into(),
        );
        self.rows.clear();
        self.rows.branches.begin(true);
        for (index, &((tree, node), _)) in next.iter().enumerate() {
            let growing = &mut trees[tree];
            let node = node.expect("the known tokens are no node");
            growing.place(node);
            let blocks = &self.tables[tree * self.table_len..][..self.table_len];
            let path = (growing.start, &growing.nodes[node].path[..]);
            self.rows.push_node(growing.nodes[node].token, path, blocks, self.block_size);
            if next.get(index + 1).is_none_or(|((other, _), _)| *other != tree) {
                let context_len = growing.start + growing.num_followed;
                self.rows.end_sequence(context_len as u32, tree as u32);
            }
        }
        let step = self.rows.input(&self.tables, self.table_len);
        if let DraftHead::Eagle(head) = &self.head {
            head.forward(at, &mut self.workspace, kv.layer_mut(self.layer), &step);
        }
    }
}

/// The nodes that are followed next, and the row of this level whose state each goes on from: its parent's.
fn next_rows(
    trees: &[Growing],
    rows: &[TreeRow],
    (depth, topk): (usize, usize),
) -> Vec<(TreeRow, u32)> {
    let of_tree = |(index, tree): (usize, &Growing)| {
        let row = |node: usize| {
            let parent = (index, tree.nodes[node].parent);
            let source = rows.iter().position(|row| *row == parent);
            ((index, Some(node)), source.expect("children have parents") as u32)
        };
        tree.to_follow(depth, topk).into_iter().map(row).collect::<Vec<_>>()
    };
    trees.iter().enumerate().flat_map(of_tree).collect()
}

impl Growing {
    fn new(start: usize, most: usize) -> Self {
        Self { nodes: Vec::new(), start, num_followed: 0, most }
    }

    /// A token after a node, or after the known tokens.
    fn add(&mut self, parent: Option<usize>, token: u32, logprob: f32) {
        let is_there = |node: &Node| node.parent == parent && node.token == token;
        if self.nodes.iter().any(is_there) {
            return;
        }
        let (before, depth) = parent.map_or((0.0, 0), |parent| {
            let parent = &self.nodes[parent];
            (parent.score, parent.depth + 1)
        });
        // Rounding must not make a node likelier than its parent.
        let score = before + logprob.min(0.0);
        self.nodes.push(Node { token, parent, score, depth, path: Vec::new() });
    }

    /// The likeliest nodes, as many as are wanted, likeliest first. Each comes after its parent.
    fn likeliest(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by(|&a, &b| self.nodes[b].score.total_cmp(&self.nodes[a].score));
        order.truncate(self.most);
        order
    }

    /// The likeliest nodes of a depth, at most `topk`, that may have children among the likeliest of all.
    fn to_follow(&self, depth: usize, topk: usize) -> Vec<usize> {
        if depth + 1 >= self.most {
            return Vec::new();
        }
        let mut nodes = self.likeliest();
        nodes.retain(|&node| self.nodes[node].depth == depth);
        nodes.truncate(topk);
        // Rows of one level in the order of their parents.
        nodes.sort_unstable();
        nodes
    }

    /// Gives a node its place.
    fn place(&mut self, node: usize) {
        let mut path = match self.nodes[node].parent {
            Some(parent) => self.nodes[parent].path.clone(),
            None => Vec::new(),
        };
        path.push((self.start + self.num_followed) as u32);
        self.num_followed += 1;
        self.nodes[node].path = path;
    }

    fn best(&self) -> DraftTree {
        let (mut best, mut numbers) = (DraftTree::EMPTY, vec![0; self.nodes.len()]);
        for (index, node) in self.likeliest().into_iter().enumerate() {
            numbers[node] = index as u8 + 1;
            let Node { token, parent, .. } = self.nodes[node];
            best.push_after(parent.map_or(0, |parent| numbers[parent]), token);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_go_on_from_their_parents() {
        // Of the second tree the later nodes are likelier.
        let mut trees = [Growing::new(5, 6), Growing::new(9, 6)];
        for (tree, logprobs) in trees.iter_mut().zip([[-0.1, -0.2, -0.3], [-0.3, -0.2, -0.1]]) {
            (0..3).for_each(|token| tree.add(None, token, logprobs[token as usize]));
        }
        let roots: Vec<TreeRow> = (0..2).map(|tree| (tree, None)).collect();
        let first = next_rows(&trees, &roots, (0, 2));
        assert_eq!(
            first,
            [((0, Some(0)), 0), ((0, Some(1)), 0), ((1, Some(1)), 1), ((1, Some(2)), 1)]
        );
        let rows: Vec<TreeRow> = first.into_iter().map(|(row, _)| row).collect();
        for (index, &(tree, node)) in rows.iter().enumerate() {
            (10..12).for_each(|token| trees[tree].add(node, token, -0.01 * index as f32));
        }
        let second = next_rows(&trees, &rows, (1, 3));
        assert_eq!(second.len(), 6);
        for ((tree, node), source) in second {
            let parent = trees[tree].nodes[node.expect("no root")].parent;
            assert_eq!(rows[source as usize], (tree, parent));
        }
    }
}
