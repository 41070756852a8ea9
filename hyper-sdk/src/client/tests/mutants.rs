//! Faulty clients, and the cases of the suite that must fail for each.

mod client;
mod upload;

use self::client::Faulty;
use crate::client::conformance as cases;
use crate::testing::assert_suite_finds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    PingFails,
    StatsAreWrong,
    StatsAreNone,
    UnknownBlobsAreEmpty,
    UnknownIsNotFound,
    BytesChange,
    StreamsEndEarly,
    SizesAreWrong,
    KnowsSha256Only,
    RangesAreLong,
    SuffixesAreWhole,
    RangesOutsideAreEmpty,
    DeletesNothing,
    DeletesByHalves,
    StoresNothing,
    RefusesWhatIsThere,
    RefusesEmptyBlobs,
    AppendsLoseBytes,
    AppendsAnywhere,
    AppendsFail,
    EmptyAppendsFail,
    OffsetsStand,
    RefreshesGuess,
    FinishLosesTheRest,
    ChecksNoDigest,
    StoresUnfinished,
    ShowsWhatFailed,
    SwallowsErrors,
    EndsWhatBroke,
    GoesOnAfterFinish,
    CancelsNothing,
    HasNoTokens,
    HasOneSession,
    ForgetsSessions,
    ResumesForAnybody,
    ResumesAnything,
    MountsNothing,
    MountsNever,
    OffersNothing,
    ManifestsAreReformatted,
    ResolvesAnother,
    TakesIncompleteImages,
    TakesWrongDigests,
    TagsStay,
    ListsAreReversed,
    ListsEndEarly,
    PagesAreAlone,
    PagesRepeat,
    NobodyIsUnknown,
    DeletesManifestsOfTags,
    ReferrersAreNone,
    ReferrersAreAll,
    ReferrersAreNotFiltered,
    ReferrersAreBare,
    DeniesWhatItDoes,
    ClaimsTooMuch,
    HasNoName,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_faulty_client_is_caught() {
    assert_suite_finds! { cases, Faulty::with, Fault;
        PingFails by the_registry_answers;
        StatsAreWrong by a_blob_comes_back_whole;
        StatsAreNone by pushing_twice_sends_nothing, a_blob_is_read_up_to_a_limit;
        UnknownBlobsAreEmpty by an_unknown_blob_is_none_and_blob_unknown;
        UnknownIsNotFound by an_unknown_blob_is_none_and_blob_unknown, an_unknown_manifest_is_manifest_unknown;
        BytesChange by a_blob_comes_back_whole, random_images_come_back_whole, an_image_is_pushed_and_pulled,
            a_dropped_stream_ends_nothing_else, a_copy_within_a_registry, many_requests_at_once;
        StreamsEndEarly by a_large_blob_comes_back_whole, a_random_index_is_pushed_and_pulled;
        SizesAreWrong by a_blob_is_read_up_to_a_limit, ranges_are_exact;
        KnowsSha256Only by a_sha512_blob_comes_back;
        RangesAreLong by ranges_are_exact;
        SuffixesAreWhole by ranges_are_exact;
        RangesOutsideAreEmpty by a_range_outside_is_range_invalid;
        DeletesNothing by a_deleted_blob_is_gone, deleting_a_manifest_takes_its_tags;
        DeletesByHalves by deleting_a_manifest_takes_its_tags;
        StoresNothing by a_blob_comes_back_whole, an_empty_blob_is_a_blob;
        RefusesWhatIsThere by the_same_blob_twice_is_one;
        RefusesEmptyBlobs by an_empty_blob_is_a_blob;
        AppendsLoseBytes by chunks_add_up;
        AppendsAnywhere by two_handles_of_one_upload_do_not_mix;
        AppendsFail by chunks_add_up, capabilities_what_is_claimed_is_there;
        EmptyAppendsFail by appending_nothing_changes_nothing;
        OffsetsStand by chunks_add_up, a_dropped_upload_is_resumed;
        RefreshesGuess by an_upload_says_how_far_it_is, a_broken_upload_goes_on;
        FinishLosesTheRest by chunks_and_a_rest_add_up;
        ChecksNoDigest by a_wrong_digest_is_digest_invalid;
        StoresUnfinished by an_unfinished_upload_is_not_a_blob;
        ShowsWhatFailed by a_stream_that_fails_stores_nothing;
        SwallowsErrors by a_stream_that_fails_stores_nothing;
        EndsWhatBroke by a_broken_upload_goes_on;
        GoesOnAfterFinish by a_finished_upload_is_gone;
        CancelsNothing by a_cancelled_upload_is_gone;
        HasNoTokens by capabilities_what_is_claimed_is_there, an_upload_without_bytes_is_resumed;
        HasOneSession by two_uploads_beside_each_other_do_not_mix;
        ForgetsSessions by a_dropped_upload_is_resumed;
        ResumesForAnybody by an_upload_belongs_to_its_repository;
        ResumesAnything by an_unknown_token_is_upload_unknown, a_cancelled_upload_is_gone;
        MountsNothing by a_mount_of_nothing_is_an_upload;
        MountsNever by a_mount_brings_the_blob;
        OffersNothing by an_offer_is_a_mount_or_an_upload;
        ManifestsAreReformatted by a_manifest_keeps_its_bytes, a_manifest_comes_back_by_tag_and_digest,
            an_index_is_pushed_with_all_its_images;
        ResolvesAnother by resolving_names_what_getting_gives;
        TakesIncompleteImages by a_manifest_without_its_blobs_is_refused;
        TakesWrongDigests by a_manifest_under_a_wrong_digest_is_refused;
        TagsStay by a_tag_moves;
        ListsAreReversed by tags_are_paged_in_order, repositories_are_paged_in_order;
        ListsEndEarly by tags_are_paged_in_order, repositories_are_paged_in_order;
        PagesAreAlone by every_page_of_a_list_is_read;
        PagesRepeat by tags_are_paged_in_order, every_page_of_a_list_is_read;
        NobodyIsUnknown by tags_are_paged_in_order;
        DeletesManifestsOfTags by deleting_a_tag_keeps_the_manifest;
        ReferrersAreNone by referrers_are_listed_and_filtered, a_copy_brings_the_referrers;
        ReferrersAreAll by referrers_of_nothing_are_none;
        ReferrersAreNotFiltered by referrers_are_listed_and_filtered;
        ReferrersAreBare by referrers_are_listed_and_filtered;
        DeniesWhatItDoes by capabilities_what_is_denied_is_unsupported;
        ClaimsTooMuch by capabilities_what_is_claimed_is_there;
        HasNoName by capabilities_a_client_has_a_name;
    }
}
