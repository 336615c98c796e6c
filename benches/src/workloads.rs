//! Texts that tell how speculation fares: some answers repeat their prompt, some do not.

use quire_kernels::cases::random_f32;

/// What users want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A question; the answer is prose, sampled at temperature 0.7.
    Chat,
    /// A program with a class like one in the prompt.
    Code,
    /// A text to be repeated with its mistakes corrected.
    CopyEdit,
    /// A text to be told in a few sentences.
    Summarise,
    /// Random tokens, sampled at temperature 1: nothing can be guessed.
    Random,
}

impl Workload {
    pub const ALL: [Self; 5] =
        [Self::Chat, Self::Code, Self::CopyEdit, Self::Summarise, Self::Random];

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Code => "code",
            Self::CopyEdit => "copy-editing",
            Self::Summarise => "summarise",
            Self::Random => "random",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }

    pub fn temperature(self) -> f32 {
        match self {
            Self::Chat => 0.7,
            Self::Random => 1.0,
            Self::Code | Self::CopyEdit | Self::Summarise => 0.0,
        }
    }

    /// What user number `user` says; `None`: random tokens.
    pub fn message(self, user: usize) -> Option<String> {
        let topic = TOPICS[user % TOPICS.len()];
        match self {
            Self::Chat => Some(format!("Tell me something that few people know about {topic}.")),
            Self::Code => Some(format!(
                "{CODE}\nWrite the same kind of Python class for {topic}, with the same methods. Answer with code only."
            )),
            Self::CopyEdit => Some(format!(
                "Repeat the following text and correct its spelling mistakes. Answer with the corrected text only.\n\n{}",
                passage(user)
            )),
            Self::Summarise => {
                Some(format!("Summarise this text in four sentences.\n\n{}", passage(user)))
            }
            Self::Random => None,
        }
    }
}

/// Repeatable token ids.
pub fn random_tokens(seed: usize, len: usize, vocab_size: usize) -> Vec<u32> {
    let id = |x: f32| (f32::midpoint(x, 1.0) * vocab_size as f32) as u32;
    let random = random_f32(seed as u64, len).into_iter();
    random.map(|x| id(x).min(vocab_size as u32 - 1)).collect()
}

/// Another order of the paragraphs for each user, and another place.
fn passage(user: usize) -> String {
    let start = user % PARAGRAPHS.len();
    let (later, first) = PARAGRAPHS.split_at(start);
    let paragraphs: Vec<&str> = first.iter().chain(later).copied().collect();
    paragraphs.join("\n\n").replace("PLACE", PLACES[user / PARAGRAPHS.len() % PLACES.len()])
}

const TOPICS: [&str; 16] = [
    "lighthouses",
    "bees",
    "paper",
    "bridges",
    "salt",
    "clocks",
    "rivers",
    "glass",
    "bread",
    "maps",
    "trains",
    "owls",
    "violins",
    "kites",
    "wells",
    "ink",
];

const PLACES: [&str; 8] =
    ["Harwick", "Lindmoor", "Osterby", "Calder", "Vennes", "Torrow", "Maribel", "Eskdale"];

const PARAGRAPHS: [&str; 5] = [
    "The old mill at PLACE was built where the river narows between two low hills. For almost two hundred \
     years it ground the wheat of eleven farms, and the miller kept a book in which every sack was writen down. \
     The book is still there, on a shelf behind the door, and its pages smell of flour and smoke.",
    "In the winter of 1874 the wheel stoped for nine weeks because the ice was thicker than a man's arm. The \
     farmers brought their grain over the frozen lake to the next town, and two horses were lost on the way. After \
     that winter the people of PLACE built a small channel of stone, which keeps the water moving even in hard frost.",
    "Most visitors come in late spring, when the meadow behind the mill is full of yelow flowers and the swallows \
     return to the roof. A narrow path leads from the station along the river, past an orchard and a bakery that \
     opens at six in the morning. The walk takes about forty minutes, and there is a bench at every secnd bridge.",
    "The machinery was repaired by three brothers who had never seen a mill from the inside before. They drew every \
     wheel and every belt on large sheets of paper, took the gears apart, cleaned them with oil, and put them \
     together agan in the same order. It took them four summers, and they were paid in bread.",
    "Today the mill makes electricity for thirty houses, and on the first Sunday of each month it grinds flour for \
     anyone who brings grain. Children are alowed to turn the small stone by hand. The council of PLACE has voted \
     to keep the entrance free, because, as the mayor said, a river has never sent a bill to anybody.",
];

const CODE: &str = "Here is a class:

```python
class Library:
    def __init__(self, name):
        self.name = name
        self.items = []

    def add(self, item):
        if item in self.items:
            raise ValueError(f\"{item} is already in {self.name}\")
        self.items.append(item)

    def remove(self, item):
        if item not in self.items:
            raise KeyError(f\"{item} is not in {self.name}\")
        self.items.remove(item)

    def find(self, word):
        return [item for item in self.items if word in item]

    def __len__(self):
        return len(self.items)

    def __repr__(self):
        return f\"Library({self.name!r}, {len(self.items)} items)\"
```
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_says_something_else() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.name()), Some(workload));
            let mut messages: Vec<_> = (0..16).filter_map(|user| workload.message(user)).collect();
            let num_messages = messages.len();
            messages.sort();
            messages.dedup();
            assert_eq!(messages.len(), num_messages, "{}", workload.name());
        }
        assert_ne!(random_tokens(1, 9, 512), random_tokens(2, 9, 512));
    }
}
