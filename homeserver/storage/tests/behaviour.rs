//! How a store behaves, whatever engine is below it: one suite, run over all of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "behaviour/following.rs"]
mod following;
#[path = "behaviour/large.rs"]
mod large;
#[path = "behaviour/log.rs"]
mod log;
#[path = "behaviour/opening.rs"]
mod opening;
#[path = "behaviour/reading.rs"]
mod reading;
#[path = "behaviour/snapshots.rs"]
mod snapshots;
mod support;
#[path = "behaviour/transactions.rs"]
mod transactions;

/// Makes a module of tests: each function, given a home of an engine that is empty.
macro_rules! tests_on {
    ($home:ty: $($topic:ident::$test:ident,)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let home = <$home as crate::support::Home>::new().await;
            crate::$topic::$test(home).await;
        }
    )+};
}

/// Runs the suite over one engine. A test that is not listed here is unused code, and so refused by the compiler.
macro_rules! suite {
    ($engine:ident, $home:ty) => {
        mod $engine {
            tests_on! { $home:
                reading::keys_come_back_in_their_order,
                reading::signed_keys_come_back_in_their_order,
                reading::keyspaces_do_not_mix,
                reading::a_batch_answers_in_the_order_in_which_it_asked,
                reading::pages_join_up_in_both_directions,
                reading::a_prefix_finds_its_own_rows_only,
                reading::an_empty_range_has_no_rows,
                snapshots::a_snapshot_never_changes,
                snapshots::a_commit_is_visible_when_it_is_acknowledged,
                snapshots::no_transaction_is_seen_in_part,
                snapshots::a_paged_scan_shows_one_moment,
                transactions::checks_decide,
                transactions::a_version_is_checked,
                transactions::write_skew_is_detected,
                transactions::concurrent_increments_all_count,
                transactions::a_use_case_is_run_again_from_a_fresh_snapshot,
                transactions::other_errors_are_not_retried,
                transactions::writes_are_applied_in_their_order,
                transactions::a_transaction_is_applied_once,
                transactions::a_refused_transaction_can_be_handed_in_again,
                transactions::neighbours_in_a_group_do_not_fail_together,
                transactions::a_transaction_sees_those_before_it_in_its_group,
                transactions::a_malformed_transaction_is_refused,
                transactions::the_position_is_filled_in,
                transactions::a_cancelled_caller_withdraws_nothing,
                transactions::a_relaxed_commit_is_visible_and_survives_a_close,
                large::large_values_come_back,
                large::a_page_ends_early_when_its_rows_are_large,
                large::long_keys_are_kept_apart,
                large::an_overlong_key_is_refused,
                large::a_large_transaction_is_one,
                large::a_range_is_deleted_in_pages,
                log::positions_are_dense_and_in_commit_order,
                log::the_log_is_read_in_pages,
                log::a_conflict_leaves_no_gap,
                log::a_commit_before_the_wait_wakes,
                log::a_watch_never_misses_a_commit,
                log::what_is_published_is_visible,
                log::closing_ends_a_watch,
                log::the_log_is_trimmed_behind_all_followers,
                following::a_follower_reads_in_order_and_skips_nothing,
                following::a_follower_goes_on_where_it_stored_its_cursor,
                following::an_effect_with_its_cursor_happens_once,
                following::a_follower_can_begin_now,
                following::a_follower_can_begin_now_on_an_empty_log,
                following::a_follower_rewinds,
                following::a_cancelled_wait_loses_nothing,
                opening::everything_is_there_again,
                opening::a_newer_schema_is_refused,
                opening::migrations_run_once_and_in_order,
                opening::an_interrupted_migration_is_run_again,
                opening::a_missing_migration_is_noticed,
                opening::what_was_accepted_before_a_close_is_kept,
                opening::a_closed_store_answers,
            }
        }
    };
}

suite!(memory, crate::support::Memory);
suite!(fjall, crate::support::Fjall);
suite!(postgresql, crate::support::Postgresql);
#[cfg(feature = "engine-sled")]
suite!(sled, crate::support::Sled);
