//! Old clients with new servers and new clients with old servers, for every change of a contract, in both encodings.
//! Clients and servers of one version are in `same`, changes of what is returned in `replies`.
//!
//! The expected outcomes are the tables in `docs/evolution.md`, which is compared with what really happens: a change of behaviour fails here until
//! the documentation says the same. "works" means that the other side sees what was meant; a code is what the caller gets.
//!
//! | change | old client, new server | new client, old server |
//! |---|---|---|
//! | append an optional or defaulted argument, remove an optional one, add a defaulted field | works | works |
//! | append a required argument or field, remove one that the other side requires | INVALID_ARGUMENT on the side that misses it | |
//! | reorder fields, add or remove one in the middle | works named; refused or misread compact | |
//! | new enum variant | works | INVALID_ARGUMENT in an argument, INTERNAL in a return, a bare status in an error |
//! | new method, new name | works, if an alias keeps the old name | UNIMPLEMENTED |

mod replies;
mod same;

use sinew::{CallError, Server, Status};

use crate::support::fixture::Fixture;

/// One line of the table.
struct Row {
    change: &'static str,
    old_to_new: String,
    new_to_old: String,
}

/// What a call came to, next to what it should have come to.
fn cell<T: PartialEq, E: Into<CallError<()>>>(result: Result<T, E>, meant: &T) -> String {
    match result.map_err(Into::into) {
        Ok(value) if value == *meant => "works".to_owned(),
        Ok(_) => "misread".to_owned(),
        Err(CallError::App(())) => "error".to_owned(),
        Err(CallError::Status(status)) => status.code().to_string(),
    }
}

/// The same contract in two versions, in one encoding.
macro_rules! versions {
    ($module:ident, $encoding:tt) => {
        mod $module {
            /// The first version.
            pub(super) mod old {
                use serde::{Deserialize, Serialize};
                use sinew::{AppError, service};

                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddDefault {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddRequired {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddMiddle {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveLast {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveDefaulted {
                    pub(crate) id: u64,
                    #[serde(default)]
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveMiddle {
                    pub(crate) id: u64,
                    #[serde(default)]
                    pub(crate) name: String,
                    pub(crate) on: bool,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Reorder {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct ReorderAlike {
                    pub(crate) first: u64,
                    pub(crate) second: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) enum Kind {
                    Plain,
                    Sized(u64),
                }
                #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize, AppError)]
                pub(crate) enum Trouble {
                    #[error("gone")]
                    #[rpc(code = NotFound)]
                    Gone,
                }

                #[service(name = "evolution.Shop", encoding = $encoding)]
                pub(crate) trait Shop {
                    async fn append_optional(&self, id: u64) -> String;
                    async fn append_default(&self, id: u64) -> String;
                    async fn append_required(&self, id: u64) -> String;
                    async fn remove_optional(&self, id: u64, note: Option<String>) -> String;
                    async fn remove_required(&self, id: u64, note: String) -> String;
                    async fn add_default(&self, value: AddDefault) -> String;
                    async fn add_required(&self, value: AddRequired) -> String;
                    async fn add_middle(&self, value: AddMiddle) -> String;
                    async fn remove_last(&self, value: RemoveLast) -> String;
                    async fn remove_defaulted(&self, value: RemoveDefaulted) -> String;
                    async fn remove_middle(&self, value: RemoveMiddle) -> String;
                    async fn reorder(&self, value: Reorder) -> String;
                    async fn reorder_alike(&self, value: ReorderAlike) -> String;
                    async fn takes_variant(&self, kind: Kind) -> String;
                    async fn gives_old_variant(&self) -> Kind;
                    async fn gives_new_variant(&self) -> Kind;
                    async fn fails(&self) -> Result<u64, Trouble>;
                    async fn old_name(&self, id: u64) -> String;
                }

                pub(crate) struct Handler;

                impl Shop for Handler {
                    async fn append_optional(&self, id: u64) -> String {
                        format!("{id}")
                    }
                    async fn append_default(&self, id: u64) -> String {
                        format!("{id}")
                    }
                    async fn append_required(&self, id: u64) -> String {
                        format!("{id}")
                    }
                    async fn remove_optional(&self, id: u64, note: Option<String>) -> String {
                        format!("{id} {note:?}")
                    }
                    async fn remove_required(&self, id: u64, note: String) -> String {
                        format!("{id} {note:?}")
                    }
                    async fn add_default(&self, value: AddDefault) -> String {
                        format!("{}", value.id)
                    }
                    async fn add_required(&self, value: AddRequired) -> String {
                        format!("{}", value.id)
                    }
                    async fn add_middle(&self, value: AddMiddle) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn remove_last(&self, value: RemoveLast) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn remove_defaulted(&self, value: RemoveDefaulted) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn remove_middle(&self, value: RemoveMiddle) -> String {
                        format!("{} {}", value.id, value.on)
                    }
                    async fn reorder(&self, value: Reorder) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn reorder_alike(&self, value: ReorderAlike) -> String {
                        format!("{} {}", value.first, value.second)
                    }
                    async fn takes_variant(&self, kind: Kind) -> String {
                        format!("{kind:?}")
                    }
                    async fn gives_old_variant(&self) -> Kind {
                        Kind::Sized(1)
                    }
                    async fn gives_new_variant(&self) -> Kind {
                        Kind::Plain
                    }
                    async fn fails(&self) -> Result<u64, Trouble> {
                        Err(Trouble::Gone)
                    }
                    async fn old_name(&self, id: u64) -> String {
                        format!("{id}")
                    }
                }
            }

            /// The second version.
            pub(super) mod new {
                use serde::{Deserialize, Serialize};
                use sinew::{AppError, service};

                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddDefault {
                    pub(crate) id: u64,
                    #[serde(default)]
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddRequired {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct AddMiddle {
                    pub(crate) id: u64,
                    #[serde(default)]
                    pub(crate) on: bool,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveLast {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveDefaulted {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct RemoveMiddle {
                    pub(crate) id: u64,
                    pub(crate) on: bool,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Reorder {
                    pub(crate) name: String,
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct ReorderAlike {
                    pub(crate) second: u64,
                    pub(crate) first: u64,
                }
                /// The new variant stands in front, so that a form that counted variants would be seen.
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) enum Kind {
                    Fancy(String),
                    Plain,
                    Sized(u64),
                }
                #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize, AppError)]
                pub(crate) enum Trouble {
                    #[error("sold to {by}")]
                    #[rpc(code = FailedPrecondition)]
                    Sold { by: String },
                    #[error("gone")]
                    #[rpc(code = NotFound)]
                    Gone,
                }

                #[service(name = "evolution.Shop", encoding = $encoding)]
                pub(crate) trait Shop {
                    async fn append_optional(&self, id: u64, note: Option<String>) -> String;
                    async fn append_default(&self, id: u64, #[rpc(default = 7)] count: u32) -> String;
                    async fn append_required(&self, id: u64, count: u32) -> String;
                    async fn remove_optional(&self, id: u64, #[rpc(reserved)] _note: ()) -> String;
                    async fn remove_required(&self, id: u64, #[rpc(reserved)] _note: ()) -> String;
                    async fn add_default(&self, value: AddDefault) -> String;
                    async fn add_required(&self, value: AddRequired) -> String;
                    async fn add_middle(&self, value: AddMiddle) -> String;
                    async fn remove_last(&self, value: RemoveLast) -> String;
                    async fn remove_defaulted(&self, value: RemoveDefaulted) -> String;
                    async fn remove_middle(&self, value: RemoveMiddle) -> String;
                    async fn reorder(&self, value: Reorder) -> String;
                    async fn reorder_alike(&self, value: ReorderAlike) -> String;
                    async fn takes_variant(&self, kind: Kind) -> String;
                    async fn gives_old_variant(&self) -> Kind;
                    async fn gives_new_variant(&self) -> Kind;
                    async fn fails(&self) -> Result<u64, Trouble>;
                    #[rpc(alias = "old_name")]
                    async fn new_name(&self, id: u64) -> String;
                    async fn new_method(&self, id: u64) -> String;
                }

                pub(crate) struct Handler;

                impl Shop for Handler {
                    async fn append_optional(&self, id: u64, note: Option<String>) -> String {
                        format!("{id} {note:?}")
                    }
                    async fn append_default(&self, id: u64, count: u32) -> String {
                        format!("{id} {count}")
                    }
                    async fn append_required(&self, id: u64, count: u32) -> String {
                        format!("{id} {count}")
                    }
                    async fn remove_optional(&self, id: u64, (): ()) -> String {
                        format!("{id}")
                    }
                    async fn remove_required(&self, id: u64, (): ()) -> String {
                        format!("{id}")
                    }
                    async fn add_default(&self, value: AddDefault) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn add_required(&self, value: AddRequired) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn add_middle(&self, value: AddMiddle) -> String {
                        format!("{} {} {}", value.id, value.on, value.name)
                    }
                    async fn remove_last(&self, value: RemoveLast) -> String {
                        format!("{}", value.id)
                    }
                    async fn remove_defaulted(&self, value: RemoveDefaulted) -> String {
                        format!("{}", value.id)
                    }
                    async fn remove_middle(&self, value: RemoveMiddle) -> String {
                        format!("{} {}", value.id, value.on)
                    }
                    async fn reorder(&self, value: Reorder) -> String {
                        format!("{} {}", value.id, value.name)
                    }
                    async fn reorder_alike(&self, value: ReorderAlike) -> String {
                        format!("{} {}", value.first, value.second)
                    }
                    async fn takes_variant(&self, kind: Kind) -> String {
                        format!("{kind:?}")
                    }
                    async fn gives_old_variant(&self) -> Kind {
                        Kind::Sized(1)
                    }
                    async fn gives_new_variant(&self) -> Kind {
                        Kind::Fancy("x".to_owned())
                    }
                    async fn fails(&self) -> Result<u64, Trouble> {
                        Err(Trouble::Sold { by: "bob".to_owned() })
                    }
                    async fn new_name(&self, id: u64) -> String {
                        format!("{id}")
                    }
                    async fn new_method(&self, id: u64) -> String {
                        format!("{id}")
                    }
                }
            }

            use super::{Row, cell, error_cell};

            /// What becomes of each change; `old` is a client of the new server, `new` one of the old server.
            #[expect(clippy::too_many_lines, reason = "one entry per row of the table")]
            pub(super) async fn rows(old: old::ShopClient, new: new::ShopClient) -> Vec<Row> {
                let text = |text: &str| text.to_owned();
                let row = |change, old_to_new, new_to_old| Row {
                    change,
                    old_to_new,
                    new_to_old,
                };
                vec![
                    row(
                        "append an optional argument",
                        cell(old.append_optional(1).await, &text("1 None")),
                        cell(new.append_optional(1, Some(text("n"))).await, &text("1")),
                    ),
                    row(
                        "append an argument with a default",
                        cell(old.append_default(1).await, &text("1 7")),
                        cell(new.append_default(1, 2).await, &text("1")),
                    ),
                    row(
                        "append a required argument",
                        cell(old.append_required(1).await, &text("1")),
                        cell(new.append_required(1, 2).await, &text("1")),
                    ),
                    row(
                        "remove an optional argument (reserved)",
                        cell(old.remove_optional(1, Some(text("n"))).await, &text("1")),
                        cell(new.remove_optional(1).await, &text("1 None")),
                    ),
                    row(
                        "remove a required argument (reserved)",
                        cell(old.remove_required(1, text("n")).await, &text("1")),
                        cell(new.remove_required(1).await, &text("1")),
                    ),
                    row(
                        "append a field with a default",
                        cell(old.add_default(old::AddDefault { id: 1 }).await, &text("1 ")),
                        cell(
                            new.add_default(new::AddDefault {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1"),
                        ),
                    ),
                    row(
                        "append a required field",
                        cell(old.add_required(old::AddRequired { id: 1 }).await, &text("1")),
                        cell(
                            new.add_required(new::AddRequired {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1"),
                        ),
                    ),
                    row(
                        "add a field with a default in the middle",
                        cell(
                            old.add_middle(old::AddMiddle {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1 false n"),
                        ),
                        cell(
                            new.add_middle(new::AddMiddle {
                                id: 1,
                                on: true,
                                name: text("n"),
                            })
                            .await,
                            &text("1 n"),
                        ),
                    ),
                    row(
                        "remove the last field",
                        cell(
                            old.remove_last(old::RemoveLast {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1"),
                        ),
                        cell(new.remove_last(new::RemoveLast { id: 1 }).await, &text("1")),
                    ),
                    row(
                        "remove the last field, which had a default",
                        cell(
                            old.remove_defaulted(old::RemoveDefaulted {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1"),
                        ),
                        cell(
                            new.remove_defaulted(new::RemoveDefaulted { id: 1 }).await,
                            &text("1 "),
                        ),
                    ),
                    row(
                        "remove a field in the middle, which had a default",
                        cell(
                            old.remove_middle(old::RemoveMiddle {
                                id: 1,
                                name: text("n"),
                                on: true,
                            })
                            .await,
                            &text("1 true"),
                        ),
                        cell(
                            new.remove_middle(new::RemoveMiddle { id: 1, on: true }).await,
                            &text("1 true"),
                        ),
                    ),
                    row(
                        "reorder fields of different types",
                        cell(
                            old.reorder(old::Reorder {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1 n"),
                        ),
                        cell(
                            new.reorder(new::Reorder {
                                id: 1,
                                name: text("n"),
                            })
                            .await,
                            &text("1 n"),
                        ),
                    ),
                    row(
                        "reorder fields of one type",
                        cell(
                            old.reorder_alike(old::ReorderAlike { first: 1, second: 2 }).await,
                            &text("1 2"),
                        ),
                        cell(
                            new.reorder_alike(new::ReorderAlike { first: 1, second: 2 }).await,
                            &text("1 2"),
                        ),
                    ),
                    row(
                        "new enum variant, an old one in an argument",
                        cell(old.takes_variant(old::Kind::Sized(1)).await, &text("Sized(1)")),
                        cell(new.takes_variant(new::Kind::Sized(1)).await, &text("Sized(1)")),
                    ),
                    row(
                        "new enum variant, the new one in an argument",
                        text("cannot happen"),
                        cell(new.takes_variant(new::Kind::Fancy(text("x"))).await, &text("")),
                    ),
                    row(
                        "new enum variant, an old one in a return",
                        cell(old.gives_old_variant().await, &old::Kind::Sized(1)),
                        cell(new.gives_old_variant().await, &new::Kind::Sized(1)),
                    ),
                    row(
                        "new enum variant, the new one in a return",
                        cell(old.gives_new_variant().await, &old::Kind::Plain),
                        text("cannot happen"),
                    ),
                    row(
                        "new variant of an application error",
                        error_cell(old.fails().await),
                        error_cell(new.fails().await),
                    ),
                    row(
                        "new name of a method, with the old one as alias",
                        cell(old.old_name(1).await, &text("1")),
                        cell(new.new_name(1).await, &text("1")),
                    ),
                    row(
                        "new method",
                        text("cannot happen"),
                        cell(new.new_method(1).await, &text("1")),
                    ),
                ]
            }
        }
    };
}

versions!(named, "named");
versions!(compact, "compact");

/// A typed error, or what is left of one that the caller does not know.
fn error_cell<E: std::fmt::Debug + sinew::AppError>(result: Result<u64, CallError<E>>) -> String {
    match result {
        Ok(_) => "misread".to_owned(),
        Err(CallError::App(_)) => "works".to_owned(),
        Err(CallError::Status(status)) => {
            assert_eq!(status.message(), "sold to bob", "the text still tells");
            format!("{} without the typed error", status.code())
        }
    }
}

impl From<Row> for String {
    fn from(row: Row) -> Self {
        format!("| {} | {} | {} |\n", row.change, row.old_to_new, row.new_to_old)
    }
}

/// Runs all cells of one encoding.
macro_rules! table {
    ($module:ident) => {{
        let old_server = Server::builder().service($module::old::ShopServer::new($module::old::Handler));
        let new_server = Server::builder().service($module::new::ShopServer::new($module::new::Handler));
        let (old_served, new_served) = (
            Fixture::Mem.serve(old_server).await,
            Fixture::Mem.serve(new_server).await,
        );
        let old = $module::old::ShopClient::from_channel(new_served.channel.clone());
        let new = $module::new::ShopClient::from_channel(old_served.channel.clone());
        let (arguments, replies) = ($module::rows(old, new).await, replies::$module::rows().await);
        arguments.into_iter().chain(replies).map(String::from).collect::<String>()
    }};
}

const DOCUMENTED: &str = include_str!("../../docs/evolution.md");

/// The table in this part of the document says what happens, all of it and nothing else.
fn is_documented(part: &str, table: &str) {
    let part = DOCUMENTED.split("\n## ").find(|text| text.starts_with(part)).expect("the document has the part");
    for line in table.lines() {
        assert!(
            part.contains(line),
            "docs/evolution.md does not say:\n{line}\nall that happens is:\n{table}"
        );
    }
    let rows = part.lines().filter(|line| line.starts_with("| ")).count();
    // Above the rows stands the line that names the columns.
    assert_eq!(
        rows,
        table.lines().count() + 1,
        "docs/evolution.md has rows that nothing shows"
    );
    assert!(part.contains(table), "docs/evolution.md has another order:\n{table}");
}

#[tokio::test]
async fn named_structs_evolve_as_documented() {
    is_documented("Named", &table!(named));
}

#[tokio::test]
async fn compact_structs_evolve_as_documented() {
    is_documented("Compact", &table!(compact));
}

/// Both encodings are always accepted when reading, so a service may change from one to the other.
#[tokio::test]
async fn the_encoding_itself_may_change() {
    let named_server = Server::builder().service(named::new::ShopServer::new(named::new::Handler));
    let compact_server = Server::builder().service(compact::new::ShopServer::new(compact::new::Handler));
    let (to_named, to_compact) = (
        Fixture::Mem.serve(named_server).await,
        Fixture::Mem.serve(compact_server).await,
    );
    let compact_client = compact::new::ShopClient::from_channel(to_named.channel.clone());
    let named_client = named::new::ShopClient::from_channel(to_compact.channel.clone());
    let value = compact::new::Reorder {
        name: "n".to_owned(),
        id: 1,
    };
    assert_eq!(compact_client.reorder(value).await.unwrap(), "1 n");
    assert_eq!(
        compact_client.gives_old_variant().await.unwrap(),
        compact::new::Kind::Sized(1)
    );
    let value = named::new::Reorder {
        name: "n".to_owned(),
        id: 1,
    };
    assert_eq!(named_client.reorder(value).await.unwrap(), "1 n");
    assert_eq!(
        named_client.gives_old_variant().await.unwrap(),
        named::new::Kind::Sized(1)
    );
}

/// A wrong argument is refused before the handler sees it, by name.
#[tokio::test]
async fn a_missing_argument_is_named() {
    let server = Server::builder().service(named::new::ShopServer::new(named::new::Handler));
    let served = Fixture::Mem.serve(server).await;
    let old = named::old::ShopClient::from_channel(served.channel.clone());
    let status: Status = old.append_required(1).await.unwrap_err();
    assert!(status.message().contains("count"), "{status}");
}
