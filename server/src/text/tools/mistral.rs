//! Mistral: `[TOOL_CALLS]NAME[ARGS]{…}`, with `[CALL_ID]` between in v11, and `[TOOL_CALLS][{"name": …}, …]` before.

use super::cursor::{Cursor, Scan};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "mistral",
    aliases: &["ministral", "devstral"],
    signs: &[&[OPEN]],
    openers: &[OPEN],
    leading: &[],
    closers: &[],
    inner: &[CALL_ID, ARGS],
    prefix: "[TOOL_CALLS]{name}[ARGS]",
    read,
    ids: Ids::Nine,
};

const OPEN: &str = "[TOOL_CALLS]";
const CALL_ID: &str = "[CALL_ID]";
const ARGS: &str = "[ARGS]";

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.expect(OPEN)?;
    cursor.skip_space();
    if cursor.next_is("[")? {
        return json::calls(cursor.json()?);
    }
    let name = cursor.name_before(&[CALL_ID, ARGS, "{"])?.to_owned();
    let id = match cursor.take(CALL_ID)? {
        true => Some(cursor.name_before(&[ARGS])?.to_owned()),
        false => None,
    };
    cursor.take(ARGS)?;
    cursor.skip_space();
    let arguments = json::arguments(cursor.json()?)?;
    Ok(vec![RawCall { id, name, arguments }])
}
