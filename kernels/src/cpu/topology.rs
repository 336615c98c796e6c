//! Which processors this process may use: the cores they belong to, and the nodes of memory that they are near to.

use std::collections::BTreeSet;
use std::marker::PhantomData;

/// Processors by node of memory, as far as this process may use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Nodes without a processor of ours are left out.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    /// Numbers of hardware threads.
    processors: Vec<usize>,
    num_cores: usize,
}

impl Topology {
    /// As the operating system tells; where it does not, every processor is a core of one node.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(format!("/sys/devices/system/{path}")).ok();
        Self::from_files(&read, &affinity::allowed())
    }

    fn from_files(read: &dyn Fn(&str) -> Option<String>, allowed: &[usize]) -> Self {
        let online = read("node/online").map_or(Vec::new(), |text| numbers(&text));
        let near = |node| read(&format!("node/node{node}/cpulist")).map(|text| numbers(&text));
        let mut nodes: Vec<Vec<usize>> = online.into_iter().filter_map(near).collect();
        for processors in &mut nodes {
            processors.retain(|processor| allowed.contains(processor));
        }
        nodes.retain(|processors| !processors.is_empty());
        if nodes.iter().map(Vec::len).sum::<usize>() != allowed.len() {
            nodes = vec![allowed.to_vec()];
        }
        let siblings = |processor: &usize| {
            let list = read(&format!("cpu/cpu{processor}/topology/thread_siblings_list"));
            list.map_or(vec![*processor], |text| numbers(&text))
        };
        let node = |processors: Vec<usize>| Node {
            num_cores: processors.iter().map(siblings).collect::<BTreeSet<_>>().len(),
            processors,
        };
        Self { nodes: nodes.into_iter().map(node).collect() }
    }

    /// Physical cores: two hardware threads of a core share its multipliers. A limit on processor time counts too.
    pub fn num_cores(&self) -> usize {
        let cores: usize = self.nodes.iter().map(|node| node.num_cores).sum();
        std::thread::available_parallelism().map_or(cores, |limit| cores.min(limit.get()))
    }

    /// The processors for each of `num_threads` threads, those of a node side by side; empty where all memory is near.
    pub(super) fn placement(&self, num_threads: usize) -> Vec<Vec<usize>> {
        if self.nodes.len() < 2 {
            return Vec::new();
        }
        let cores = || self.nodes.iter().flat_map(|node| std::iter::repeat_n(node, node.num_cores));
        let num_cores = cores().count();
        let node = |thread| cores().nth(thread * num_cores / num_threads);
        (0..num_threads).filter_map(node).map(|node| node.processors.clone()).collect()
    }
}

/// A list as in "0-3,8": what cannot be read is left out.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Keeps the calling thread on some processors; dropped, it may run where it could before.
pub struct StayNear {
    before: affinity::Processors,
    /// Its drop concerns the thread that made it.
    of_this_thread: PhantomData<*const ()>,
}

impl StayNear {
    /// `None` when `processors` is empty or the system does not allow it.
    pub(super) fn new(processors: &[usize]) -> Option<Self> {
        let before = affinity::get()?;
        let is_set = !processors.is_empty() && affinity::set(&affinity::of(processors));
        is_set.then_some(Self { before, of_this_thread: PhantomData })
    }
}

impl Drop for StayNear {
    fn drop(&mut self) {
        affinity::set(&self.before);
    }
}

/// Where the calling thread may run.
#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) type Processors = CpuSet;

    pub(super) fn get() -> Option<Processors> {
        sched_getaffinity(None).ok()
    }

    pub(super) fn set(processors: &Processors) -> bool {
        sched_setaffinity(None, processors).is_ok()
    }

    pub(super) fn of(processors: &[usize]) -> Processors {
        let mut set = CpuSet::new();
        processors.iter().filter(|&&at| at < CpuSet::MAX_CPU).for_each(|&at| set.set(at));
        set
    }

    pub(super) fn allowed() -> Vec<usize> {
        let Some(set) = get() else { return super::first_processors() };
        (0..CpuSet::MAX_CPU).filter(|&at| set.is_set(at)).collect()
    }
}

/// Other systems place threads themselves.
#[cfg(not(target_os = "linux"))]
mod affinity {
    pub(super) struct Processors;

    pub(super) fn get() -> Option<Processors> {
        None
    }

    pub(super) fn set(_processors: &Processors) -> bool {
        false
    }

    pub(super) fn of(_processors: &[usize]) -> Processors {
        Processors
    }

    pub(super) fn allowed() -> Vec<usize> {
        super::first_processors()
    }
}

/// As many as the system says that we can use at once.
fn first_processors() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of two cores of two hardware threads each.
    fn two_nodes(path: &str) -> Option<String> {
        let text = match path {
            "node/online" => "0-1\n",
            "node/node0/cpulist" => "0-1,4-5\n",
            "node/node1/cpulist" => "2-3,6-7\n",
            _ => {
                let number = path.strip_prefix("cpu/cpu")?.split('/').next()?.parse::<usize>();
                return number.ok().map(|number| format!("{},{}\n", number % 4, number % 4 + 4));
            }
        };
        Some(text.to_owned())
    }

    #[test]
    fn cores_are_counted_on_the_processors_that_are_ours() {
        let cores = |allowed: &[usize]| {
            let nodes = Topology::from_files(&two_nodes, allowed).nodes;
            nodes.iter().map(|node| node.num_cores).collect::<Vec<_>>()
        };
        assert_eq!(cores(&[0, 1, 2, 3, 4, 5, 6, 7]), [2, 2]);
        assert_eq!(cores(&[1, 5, 6]), [1, 1], "both hardware threads of core 1, and one of core 2");
        assert_eq!(cores(&[2, 3]), [2], "one node is ours");
    }

    #[test]
    fn threads_of_a_node_lie_side_by_side() {
        let all = Topology::from_files(&two_nodes, &[0, 1, 2, 3, 4, 5, 6, 7]);
        let placement = |num_threads| all.placement(num_threads);
        let (first, second) = (vec![0, 1, 4, 5], vec![2, 3, 6, 7]);
        assert_eq!(placement(1), vec![first.clone()]);
        assert_eq!(placement(2), [first.clone(), second.clone()]);
        assert_eq!(placement(3), [first.clone(), first, second]);
        let uneven = Topology::from_files(&two_nodes, &[0, 2, 3]);
        assert_eq!(uneven.placement(3), [vec![0], vec![2, 3], vec![2, 3]]);
        let one = Topology::from_files(&two_nodes, &[0, 1]);
        assert!(one.placement(2).is_empty(), "all memory is near");
    }

    #[test]
    fn a_system_that_tells_nothing_is_one_node() {
        let none = |_: &str| None;
        let cores = Topology::from_files(&none, &[0, 1, 2]).nodes[0].num_cores;
        assert_eq!(cores, 3);
        assert!(Topology::detect().num_cores() >= 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_stayed_near_goes_where_it_could_before() {
        let before = affinity::allowed();
        let near = StayNear::new(&before[..1]).unwrap();
        assert_eq!(affinity::allowed(), before[..1]);
        drop(near);
        assert_eq!(affinity::allowed(), before);
    }
}
