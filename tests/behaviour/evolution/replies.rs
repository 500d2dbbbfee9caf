//! Further rows of the table: structs that come back, and arguments that are deleted without being reserved.
//!
//! Each change also runs between a client and a server of one version, where it has to work.

use sinew::Server;

use super::{Row, cell};
use crate::support::fixture::Fixture;

/// The same contract in two versions, in one encoding.
macro_rules! versions {
    ($module:ident, $encoding:tt) => {
        pub(super) mod $module {
            /// The first version.
            pub(super) mod old {
                use serde::{Deserialize, Serialize};
                use sinew::service;

                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Appended {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Defaulted {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Removed {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Reordered {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }

                #[service(name = "evolution.Depot", encoding = $encoding)]
                pub(crate) trait Depot {
                    async fn appended(&self) -> Appended;
                    async fn defaulted(&self) -> Defaulted;
                    async fn removed(&self) -> Removed;
                    async fn reordered(&self) -> Reordered;
                    async fn without_optional(&self, id: u64, note: Option<String>) -> u64;
                    async fn without_required(&self, id: u64, note: String) -> u64;
                    async fn without_middle(&self, id: u64, note: String, count: u64) -> u64;
                    async fn without_alike(&self, id: u64, count: u64, depth: Option<u64>) -> u64;
                }

                pub(crate) struct Handler;

                impl Depot for Handler {
                    async fn appended(&self) -> Appended {
                        Appended { id: 1 }
                    }
                    async fn defaulted(&self) -> Defaulted {
                        Defaulted { id: 1 }
                    }
                    async fn removed(&self) -> Removed {
                        let name = "n".to_owned();
                        Removed { id: 1, name }
                    }
                    async fn reordered(&self) -> Reordered {
                        let name = "n".to_owned();
                        Reordered { id: 1, name }
                    }
                    async fn without_optional(&self, id: u64, _note: Option<String>) -> u64 {
                        id
                    }
                    async fn without_required(&self, id: u64, _note: String) -> u64 {
                        id
                    }
                    async fn without_middle(&self, id: u64, _note: String, count: u64) -> u64 {
                        id * 10 + count
                    }
                    async fn without_alike(&self, id: u64, _count: u64, depth: Option<u64>) -> u64 {
                        id * 10 + depth.unwrap_or(0)
                    }
                }
            }

            /// The second version.
            pub(super) mod new {
                use serde::{Deserialize, Serialize};
                use sinew::service;

                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Appended {
                    pub(crate) id: u64,
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Defaulted {
                    pub(crate) id: u64,
                    #[serde(default)]
                    pub(crate) name: String,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Removed {
                    pub(crate) id: u64,
                }
                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(crate) struct Reordered {
                    pub(crate) name: String,
                    pub(crate) id: u64,
                }

                #[service(name = "evolution.Depot", encoding = $encoding)]
                pub(crate) trait Depot {
                    async fn appended(&self) -> Appended;
                    async fn defaulted(&self) -> Defaulted;
                    async fn removed(&self) -> Removed;
                    async fn reordered(&self) -> Reordered;
                    async fn without_optional(&self, id: u64) -> u64;
                    async fn without_required(&self, id: u64) -> u64;
                    async fn without_middle(&self, id: u64, count: u64) -> u64;
                    async fn without_alike(&self, id: u64, depth: Option<u64>) -> u64;
                }

                pub(crate) struct Handler;

                impl Depot for Handler {
                    async fn appended(&self) -> Appended {
                        let name = "n".to_owned();
                        Appended { id: 1, name }
                    }
                    async fn defaulted(&self) -> Defaulted {
                        let name = "n".to_owned();
                        Defaulted { id: 1, name }
                    }
                    async fn removed(&self) -> Removed {
                        Removed { id: 1 }
                    }
                    async fn reordered(&self) -> Reordered {
                        let name = "n".to_owned();
                        Reordered { id: 1, name }
                    }
                    async fn without_optional(&self, id: u64) -> u64 {
                        id
                    }
                    async fn without_required(&self, id: u64) -> u64 {
                        id
                    }
                    async fn without_middle(&self, id: u64, count: u64) -> u64 {
                        id * 10 + count
                    }
                    async fn without_alike(&self, id: u64, depth: Option<u64>) -> u64 {
                        id * 10 + depth.unwrap_or(0)
                    }
                }
            }

            use super::{Fixture, Row, Server, cell};

            /// What each change comes to, for an old client: of a new server, or of an old one where the reply has no new fields.
            async fn of_old(client: &old::DepotClient) -> Vec<String> {
                let note = || "n".to_owned();
                vec![
                    cell(client.appended().await, &old::Appended { id: 1 }),
                    cell(client.defaulted().await, &old::Defaulted { id: 1 }),
                    cell(client.removed().await, &old::Removed { id: 1, name: note() }),
                    cell(client.reordered().await, &old::Reordered { id: 1, name: note() }),
                    cell(client.without_optional(1, Some(note())).await, &1),
                    cell(client.without_required(1, note()).await, &1),
                    cell(client.without_middle(1, note(), 2).await, &12),
                    cell(client.without_alike(1, 3, Some(2)).await, &12),
                ]
            }

            /// Likewise for a new client; `name` is what the field that was added with a default holds.
            async fn of_new(client: &new::DepotClient, name: &str) -> Vec<String> {
                let note = || "n".to_owned();
                let name = name.to_owned();
                vec![
                    cell(client.appended().await, &new::Appended { id: 1, name: note() }),
                    cell(client.defaulted().await, &new::Defaulted { id: 1, name }),
                    cell(client.removed().await, &new::Removed { id: 1 }),
                    cell(client.reordered().await, &new::Reordered { id: 1, name: note() }),
                    cell(client.without_optional(1).await, &1),
                    cell(client.without_required(1).await, &1),
                    cell(client.without_middle(1, 2).await, &12),
                    cell(client.without_alike(1, Some(2)).await, &12),
                ]
            }

            pub(in super::super) async fn rows() -> Vec<Row> {
                const CHANGES: [&str; 8] = [
                    "append a required field to a returned struct",
                    "append a field with a default to a returned struct",
                    "remove the last field of a returned struct",
                    "reorder fields of a returned struct",
                    "delete the last argument, which is optional",
                    "delete the last argument, which is required",
                    "delete an argument in front of one of another type",
                    "delete an argument in front of one of its type",
                ];
                let old_server = Server::builder().service(old::DepotServer::new(old::Handler));
                let new_server = Server::builder().service(new::DepotServer::new(new::Handler));
                let (at_old, at_new) = (
                    Fixture::Mem.serve(old_server).await,
                    Fixture::Mem.serve(new_server).await,
                );
                let old = |channel: &sinew::Channel| old::DepotClient::from_channel(channel.clone());
                let new = |channel: &sinew::Channel| new::DepotClient::from_channel(channel.clone());
                let works = vec!["works".to_owned(); CHANGES.len()];
                assert_eq!(of_old(&old(&at_old.channel)).await, works, "old with old");
                assert_eq!(of_new(&new(&at_new.channel), "n").await, works, "new with new");
                let old_to_new = of_old(&old(&at_new.channel)).await;
                let new_to_old = of_new(&new(&at_old.channel), "").await;
                let cells = CHANGES.into_iter().zip(old_to_new).zip(new_to_old);
                cells
                    .map(|((change, old_to_new), new_to_old)| Row {
                        change,
                        old_to_new,
                        new_to_old,
                    })
                    .collect()
            }
        }
    };
}

versions!(named, "named");
versions!(compact, "compact");
