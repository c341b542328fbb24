"""Finding codes: the severity of each problem in the data, its consequence, and its fix."""

from typing import NamedTuple


class FindingCode(NamedTuple):
    """A kind of problem in the data.

    severity: "error" (`wbdc prepare` stops), "warning" (some information is lost) or "note"; what:
    noun phrase of the problem; consequence: what happens without a fix; fix: what the user can do.
    """

    severity: str
    what: str
    consequence: str
    fix: str


FINDING_CODES = {
    "archive.broken": FindingCode(
        "warning",
        "archives or video files that cannot be read",
        "the video keeps its text and has no frames",
        "copy or download these archives again",
    ),
    "archive.crowded": FindingCode(
        "warning",
        "archives with too many members",
        "the video keeps its text and has no frames",
        "check that these files are frame archives",
    ),
    "archive.empty": FindingCode(
        "warning",
        "archives without frames",
        "the video is classified from its text alone",
        "none needed if the contest allows videos without frames",
    ),
    "archive.escape": FindingCode(
        "warning",
        "archive members whose paths lead out of the folder",
        "none: frames are read in memory and nothing is extracted",
        "do not extract these archives with other tools",
    ),
    "archive.extra": FindingCode(
        "note",
        "files without an annotation",
        "these files are ignored",
        "check that the annotation files are complete",
    ),
    "archive.huge": FindingCode(
        "warning",
        "archives or video files larger than 1 GiB",
        "the video keeps its text and has no frames",
        "create these archives again with fewer or smaller frames",
    ),
    "archive.link": FindingCode(
        "warning",
        "archive members that are links",
        "these frames are skipped",
        "create these archives again with the image files themselves",
    ),
    "archive.missing": FindingCode(
        "warning",
        "videos without an archive",
        "the video is classified from its text alone",
        "download the archives if the contest provides them",
    ),
    "archive.order": FindingCode(
        "note",
        "archives whose frame names sort differently as text and as numbers",
        "none: frames are sorted by number",
        "sort by number if other tools read these archives",
    ),
    "archive.twice": FindingCode(
        "warning",
        "archive members with the same name",
        "the last member with the name is used",
        "create these archives again with unique names",
    ),
    "duplicate.conflict": FindingCode(
        "warning",
        "groups of near-duplicates with different classes",
        "contradictory labels limit the score that any model can reach",
        "review these videos with `wbdc report --prepared`; correct labels with --corrections",
    ),
    "duplicate.frames": FindingCode(
        "note",
        "pairs of videos with nearly the same frames",
        "both videos are in the same fold, so validation stays independent",
        "none needed",
    ),
    "duplicate.test": FindingCode(
        "note",
        "test videos that nearly repeat a labeled video",
        "these videos are only reported, never used for predictions",
        "none needed; most contests forbid copying labels",
    ),
    "duplicate.text": FindingCode(
        "note",
        "pairs of videos with nearly the same text",
        "both videos are in the same fold, so validation stays independent",
        "none needed",
    ),
    "frame.bomb": FindingCode(
        "warning",
        "frames that declare an extreme size",
        "these frames are skipped before memory is allocated",
        "create these archives again",
    ),
    "frame.damaged": FindingCode(
        "warning",
        "frames that cannot be decoded",
        "these frames are skipped in training and in inference",
        "copy or download these archives again",
    ),
    "frame.format": FindingCode(
        "note",
        "frames that are not JPEG, whatever their file names are",
        "these frames are decoded by content, which is slower",
        "none needed",
    ),
    "frame.unreadable": FindingCode(
        "warning",
        "archive members or video streams that end early",
        "the unreadable frames are skipped",
        "copy or download these files again",
    ),
    "group.column": FindingCode(
        "warning",
        "columns whose groups are divided between folds",
        "out-of-fold scores are too optimistic: a video is often recognized by other videos of its "
        "group, which the test split does not have",
        "prepare the data again with --groups COLUMN",
    ),
    "group.large": FindingCode(
        "warning",
        "groups with more videos than a fold",
        "folds differ in size",
        "divide these groups, or use fewer --folds",
    ),
    "group.leak": FindingCode(
        "note",
        "groups by which videos are recognized",
        "each group is in one fold; folds that divide them would give scores that are too "
        "optimistic",
        "none needed",
    ),
    "group.missing": FindingCode(
        "note",
        "labeled videos without a group",
        "each of these videos is a group of its own",
        "none needed, or add their groups",
    ),
    "group.test": FindingCode(
        "note",
        "test videos whose group has labeled videos",
        "the test score may be higher than the out-of-fold scores, since each group is in one fold",
        "none needed; prepare without --groups if most test videos are listed",
    ),
    "group.unknown": FindingCode(
        "warning",
        "groups of ids that are not in the data",
        "these rows are ignored",
        "check that the file of --groups belongs to these data",
    ),
    "id.number": FindingCode(
        "warning",
        "ids written as numbers",
        "ids are read exactly; other tools may round ids of 20 digits",
        "write ids as strings",
    ),
    "id.twice": FindingCode(
        "error",
        "ids that occur more than once in a split",
        "the result file can hold only one prediction for each id",
        "keep one item for each id",
    ),
    "id.twice.splits": FindingCode(
        "error",
        "ids that occur in two splits",
        "training videos would leak into the evaluation",
        "keep each id in one split",
    ),
    "key.twice": FindingCode(
        "warning",
        "fields that occur twice in an item",
        "the last value is used",
        "write each field once",
    ),
    "label.missing": FindingCode(
        "error",
        "labeled videos without a class",
        "these videos cannot be used for training",
        "add their classes or move them to the unlabeled split",
    ),
    "label.number": FindingCode(
        "error",
        "classes written as numbers",
        "leading zeros are lost",
        "write classes as strings",
    ),
    "label.rare": FindingCode(
        "note",
        "classes with fewer videos than folds",
        "these classes are absent from some folds",
        "none needed, or use fewer --folds",
    ),
    "label.unexpected": FindingCode(
        "note",
        "labels outside the labeled split",
        "these labels are never read",
        "none needed",
    ),
    "label.unknown": FindingCode(
        "error",
        "labels that are not a known class",
        "predictions cannot contain these classes",
        "correct these labels or add the classes to the contest: `classes` in its TOML file, or "
        "taxonomy.csv beside the data of WeChat 2022",
    ),
    "shift": FindingCode(
        "note",
        "statistics that differ between the labeled and the test split",
        "out-of-fold scores may not match the test score",
        "see the table of distribution shift",
    ),
    "split.empty": FindingCode(
        "warning",
        "splits without videos",
        "the split is empty",
        "check that the download is complete",
    ),
    "modality.broken": FindingCode(
        "warning",
        "files of features or tokens of a further modality that cannot be read",
        "the video counts as one without that modality",
        "write features as .npy files with float numbers, (steps, D) or (D,), the same D for all, "
        "and tokens as .txt files in UTF-8",
    ),
    "modality.huge": FindingCode(
        "warning",
        "files of a further modality larger than 64 MiB, or than 1 MiB for tokens",
        "the video counts as one without that modality",
        "write fewer vectors of each video, for example one a second, or fewer tokens",
    ),
    "modality.missing": FindingCode(
        "warning",
        "videos without the file of a further modality",
        "the video is classified without that modality",
        "none needed if the contest allows videos without it",
    ),
    "sound.broken": FindingCode(
        "warning",
        "sound files that cannot be read",
        "the video counts as one without sound",
        "copy or download the files again, or convert them to another format",
    ),
    "sound.cut": FindingCode(
        "warning",
        "sound files that can be read up to some damage",
        "the sound before the damage is used",
        "copy or download the files again",
    ),
    "sound.huge": FindingCode(
        "warning",
        "sound files larger than 1 GiB",
        "the video counts as one without sound",
        "cut them to 32 seconds; later sound is not read",
    ),
    "sound.silent": FindingCode(
        "note",
        "sound files without sound: silence, or video files without a sound stream",
        "the video counts as one without sound",
        "none needed",
    ),
    "text.control": FindingCode(
        "note",
        "texts with control characters",
        "each control character is replaced by a space",
        "none needed",
    ),
    "text.missing": FindingCode(
        "note",
        "missing texts",
        "a missing text is read as an empty text",
        "none needed if the contest allows missing texts",
    ),
    "text.surrogate": FindingCode(
        "warning",
        "texts with an incomplete character (for example, a cut emoji)",
        "the incomplete character becomes U+FFFD, the replacement character",
        "none needed, or cut texts between characters",
    ),
    "text.type": FindingCode(
        "warning",
        "text fields that are not strings",
        "strings inside the value are used; without any, the text is empty",
        "write text fields as strings",
    ),
}
