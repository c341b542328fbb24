"""What each finding means: how bad it is, what follows when nothing is done, and what to do."""

from typing import NamedTuple


class FindingCode(NamedTuple):
    """severity: "error" (nothing is prepared), "warning" (survived, but something is lost) or
    "note"; what, consequence, fix: sentences.
    """

    severity: str
    what: str
    consequence: str
    fix: str


FINDING_CODES = {
    "archive.broken": FindingCode(
        "warning",
        "archives that cannot be read",
        "the video keeps its text and loses its frames",
        "copy or download them again",
    ),
    "archive.crowded": FindingCode(
        "warning",
        "archives with absurdly many members",
        "the video keeps its text and loses its frames",
        "look whether they are what they should be",
    ),
    "archive.empty": FindingCode(
        "warning",
        "archives without a frame",
        "the video is judged by its text alone",
        "nothing, when the contest says frames may be missing",
    ),
    "archive.escape": FindingCode(
        "warning",
        "members named like paths out of the folder",
        "none: frames are read in memory, nothing is ever extracted",
        "never unpack these with another tool",
    ),
    "archive.extra": FindingCode(
        "note",
        "files that belong to no annotation",
        "they are ignored",
        "look whether an annotation file is incomplete",
    ),
    "archive.huge": FindingCode(
        "warning",
        "archives of more than a gigabyte",
        "the video keeps its text and loses its frames",
        "make them again with fewer or smaller frames",
    ),
    "archive.link": FindingCode(
        "warning",
        "members that are links",
        "these frames are left out",
        "make the archives again with the pictures themselves",
    ),
    "archive.missing": FindingCode(
        "warning",
        "videos without an archive",
        "the video is judged by its text alone",
        "download them, when the contest provides them",
    ),
    "archive.order": FindingCode(
        "note",
        "archives whose names sorted as text would shuffle time",
        "none here: names are sorted naturally",
        "remember it when another tool reads them",
    ),
    "archive.twice": FindingCode(
        "warning",
        "members that bear one name",
        "the last of them counts",
        "make the archives again",
    ),
    "duplicate.conflict": FindingCode(
        "warning",
        "near-duplicates with different classes",
        "the labels contradict each other: noise that no model can learn",
        "look at them; correct or drop labels",
    ),
    "duplicate.frames": FindingCode(
        "note",
        "pairs of videos whose frames are nearly the same",
        "they stay in one fold, so that no fold is judged on what it has seen",
        "nothing",
    ),
    "duplicate.test": FindingCode(
        "note",
        "test videos that nearly repeat a labelled one",
        "reported only, never used",
        "nothing; copying labels would be against most rules",
    ),
    "duplicate.text": FindingCode(
        "note",
        "pairs of videos whose texts are nearly the same",
        "they stay in one fold, so that no fold is judged on what it has seen",
        "nothing",
    ),
    "frame.bomb": FindingCode(
        "warning",
        "frames that declare absurd sizes",
        "these frames are left out before any memory is taken",
        "make the archives again",
    ),
    "frame.damaged": FindingCode(
        "warning",
        "frames that cannot be decoded",
        "these frames are left out, in training as at the judge",
        "copy or download the archives again",
    ),
    "frame.format": FindingCode(
        "note",
        "frames that are no JPEG, whatever their names say",
        "they are decoded by content, more slowly",
        "nothing",
    ),
    "frame.unreadable": FindingCode(
        "warning",
        "members or video streams that cannot be read to their end",
        "these frames are left out",
        "copy or download the files again",
    ),
    "id.number": FindingCode(
        "warning",
        "ids given as numbers",
        "read digit by digit; other tools would round 20 digits",
        "write ids as texts",
    ),
    "id.twice": FindingCode(
        "error",
        "ids that stand twice in one split",
        "an answer could not hold both",
        "keep one item of each",
    ),
    "id.twice.splits": FindingCode(
        "error",
        "ids that stand in two splits",
        "what is learned would be tested",
        "keep each in one split",
    ),
    "key.twice": FindingCode(
        "warning", "fields given twice in one item", "the last one counts", "write each field once"
    ),
    "label.missing": FindingCode(
        "error",
        "labelled videos without a class",
        "there is nothing to learn from them",
        "label them, or move them to the unlabelled split",
    ),
    "label.number": FindingCode(
        "error",
        "classes that are numbers, not texts",
        "a number has lost its leading zeros",
        "write them as texts",
    ),
    "label.rare": FindingCode(
        "note",
        "classes with fewer rows than folds",
        "some folds cannot judge them; each row is held out once all the same",
        "nothing, or fewer --folds",
    ),
    "label.unexpected": FindingCode(
        "note", "labels outside the labelled split", "never read further", "nothing"
    ),
    "label.unknown": FindingCode(
        "error",
        "labels that are no known class",
        "no answer may name them",
        "correct them, or put a taxonomy.csv with your classes beside the data",
    ),
    "shift": FindingCode(
        "note",
        "statistics in which the test split differs notably from the labelled one",
        "out-of-fold scores may promise too much or too little",
        "look at the table",
    ),
    "split.empty": FindingCode(
        "warning",
        "splits without items",
        "there is nothing to read in them",
        "look whether a download was cut",
    ),
    "text.control": FindingCode(
        "note", "texts with control characters", "each becomes a blank", "nothing"
    ),
    "text.missing": FindingCode(
        "note",
        "texts that are missing",
        "read as empty",
        "nothing, when the contest says texts may be missing",
    ),
    "text.surrogate": FindingCode(
        "warning",
        "texts with half a character (a cut emoji)",
        "it becomes the replacement character",
        "nothing, or cut texts between characters",
    ),
    "text.type": FindingCode(
        "warning",
        "fields that are no text",
        "read as far as they are text, else as empty",
        "write them as texts",
    ),
}
