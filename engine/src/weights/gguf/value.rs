//! One value of a GGUF file's metadata, as stored.

/// The types a metadata value or an array element can have, by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        const ALL: [ValueType; 13] = [
            ValueType::U8,
            ValueType::I8,
            ValueType::U16,
            ValueType::I16,
            ValueType::U32,
            ValueType::I32,
            ValueType::F32,
            ValueType::Bool,
            ValueType::String,
            ValueType::Array,
            ValueType::U64,
            ValueType::I64,
            ValueType::F64,
        ];
        ALL.get(usize::try_from(id).ok()?).copied()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one value; `None` for the types without a fixed size.
    pub(super) fn num_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Value {
    Number(Number),
    String(String),
    Numbers(NumberArray),
    Strings(StringArray),
    /// Text that is not UTF-8 harms nobody until it is asked for. `element` is set for arrays.
    NotUtf8 {
        element: Option<usize>,
    },
}

impl Value {
    /// The value in the words of an error message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Number(Number { value_type, content }) => {
                let name = value_type.name();
                match content {
                    Content::Integer(value) => format!("the {name} {value}"),
                    Content::Float(value) => format!("the {name} {value}"),
                    Content::Bool(value) => format!("the {name} {value}"),
                }
            }
            Self::String(_) => "a string".to_owned(),
            Self::Numbers(array) => {
                format!("an array of {} {}", array.len(), array.value_type.name())
            }
            Self::Strings(array) => format!("an array of {} string", array.len()),
            Self::NotUtf8 { element: None } => "a string that is not UTF-8".to_owned(),
            Self::NotUtf8 { element: Some(index) } => {
                format!("an array of string whose element {index} is not UTF-8")
            }
        }
    }
}

/// A number or truth value, wide enough for every type, and the type it had in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub(super) value_type: ValueType,
    pub(super) content: Content,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Integer(i128),
    Float(f64),
    Bool(bool),
}

impl Number {
    /// Decodes the little-endian bytes of one value; `None` if their number is not the type's.
    pub(super) fn decode(value_type: ValueType, bytes: &[u8]) -> Option<Self> {
        let content = match value_type {
            ValueType::U8 => {
                Content::Integer(i128::from(u8::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::I8 => {
                Content::Integer(i128::from(i8::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::U16 => {
                Content::Integer(i128::from(u16::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::I16 => {
                Content::Integer(i128::from(i16::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::U32 => {
                Content::Integer(i128::from(u32::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::I32 => {
                Content::Integer(i128::from(i32::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::U64 => {
                Content::Integer(i128::from(u64::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::I64 => {
                Content::Integer(i128::from(i64::from_le_bytes(bytes.try_into().ok()?)))
            }
            ValueType::F32 => Content::Float(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
            ValueType::F64 => Content::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Content::Bool(*bytes.first()? != 0),
            ValueType::String | ValueType::Array => return None,
        };
        Some(Self { value_type, content })
    }

    /// Integers of any width, if the value fits.
    pub(super) fn integer<T: TryFrom<i128>>(self) -> Option<T> {
        match self.content {
            Content::Integer(value) => T::try_from(value).ok(),
            _ => None,
        }
    }

    /// Floats of either width; f64 is rounded.
    pub(super) fn float(self) -> Option<f32> {
        match self.content {
            Content::Float(value) => Some(value as f32),
            _ => None,
        }
    }

    pub(super) fn bool(self) -> Option<bool> {
        match self.content {
            Content::Bool(value) => Some(value),
            _ => None,
        }
    }
}

/// An array of a fixed-size type, kept as its bytes.
#[derive(Debug)]
pub(super) struct NumberArray {
    pub(super) value_type: ValueType,
    pub(super) bytes: Box<[u8]>,
}

impl NumberArray {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.element_bytes()
    }

    /// Every element through `convert`; `Err` holds the index of the first that does not convert.
    pub(super) fn collect<T>(
        &self,
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<Vec<T>, usize> {
        self.bytes
            .chunks_exact(self.element_bytes())
            .enumerate()
            .map(|(index, bytes)| {
                Number::decode(self.value_type, bytes).and_then(&convert).ok_or(index)
            })
            .collect()
    }

    fn element_bytes(&self) -> usize {
        self.value_type.num_bytes().expect("the parser keeps only fixed-size types in NumberArray")
    }
}

/// An array of strings in one allocation: a vocabulary of 262,144 tokens is two blocks of memory.
#[derive(Debug, Default)]
pub struct StringArray {
    text: String,
    ends: Vec<u32>,
}

impl StringArray {
    /// `ends[i]` is where string `i` ends in `bytes`; `Err` holds the index of a string that is not UTF-8.
    pub(super) fn new(bytes: Vec<u8>, ends: Vec<u32>) -> Result<Self, usize> {
        let first_bad =
            |valid_up_to: usize| ends.partition_point(|&end| end as usize <= valid_up_to);
        let text = String::from_utf8(bytes)
            .map_err(|error| first_bad(error.utf8_error().valid_up_to()))?;
        // A character cut in two by a boundary is whole only in the arena.
        match ends.iter().position(|&end| !text.is_char_boundary(end as usize)) {
            Some(index) => Err(index),
            None => Ok(Self { text, ends }),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.text[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.text[start..end as usize];
            start = end as usize;
            string
        })
    }
}

impl std::ops::Index<usize> for StringArray {
    type Output = str;

    fn index(&self, index: usize) -> &str {
        self.get(index).expect("index is below len")
    }
}
