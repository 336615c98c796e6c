//! DeepSeek V3, R1 and V3.1: calls between `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`.
//!
//! V3.1 writes `NAME<｜tool▁sep｜>{…}`; V3 and R1 write `function<｜tool▁sep｜>NAME` and the JSON in a fenced block.

use super::cursor::{Cursor, Scan};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "deepseek",
    aliases: &["deepseek_v3", "deepseek_v31", "deepseek_r1"],
    signs: &[&[BEGIN, SEPARATOR]],
    openers: &[BEGIN_ALL, BEGIN],
    leading: &[],
    closers: &["<｜tool▁calls▁end｜>"],
    inner: &[SEPARATOR, END],
    prefix: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
    read,
    ids: Ids::Call,
};

const BEGIN_ALL: &str = "<｜tool▁calls▁begin｜>";
const BEGIN: &str = "<｜tool▁call▁begin｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const END: &str = "<｜tool▁call▁end｜>";
const FENCE: &str = "```json";

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    if cursor.take(BEGIN_ALL)? {
        cursor.skip_space();
    }
    cursor.expect(BEGIN)?;
    let mut name = cursor.name_until(SEPARATOR)?;
    cursor.skip_space();
    let is_fenced = name == "function" && !cursor.next_is("{")?;
    if is_fenced {
        name = cursor.name_until(FENCE)?;
        cursor.skip_space();
    }
    let arguments = json::arguments(cursor.json()?)?;
    cursor.skip_space();
    if is_fenced {
        cursor.expect("```")?;
        cursor.skip_space();
    }
    cursor.expect_or_end(END)?;
    Ok(vec![RawCall { id: None, name: name.to_owned(), arguments }])
}
