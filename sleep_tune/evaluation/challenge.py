"""What the BabyLM challenge asks of a submission: budgets, checkpoints, and how many predictions of what every file must hold.

Numbers are those of the official collations, babylm/evaluation-pipeline-2025 and babylm-org/babylm-eval@6f825c2 (2026); those of files
that anybody may have were counted again from the data. What is wrong with a file's content is `prediction_checks.py`'s.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MILLION = 10**6
Pred = Literal["text", "label", "surprisal"]


@dataclass(frozen=True)
class Track:
    """Words a run may have as data and may see, repeats counted, and the millions of words seen at its checkpoints."""

    data_words: int
    seen_words: int
    millions: tuple[int, ...]

    @property
    def revisions(self) -> tuple[str, ...]:
        """The branches of its checkpoints, in order."""
        return tuple(f"chck_{million}M" for million in self.millions)


_CHECKPOINT = re.compile(r"chck_([1-9]\d{0,8})M|words_([1-9]\d{0,8})000000")


def revision_of(name: str) -> str | None:
    """The branch that a checkpoint's directory stands for: chck_1M by that name, and words_1000000; None for others."""
    match = _CHECKPOINT.fullmatch(name)
    return f"chck_{match[1] or match[2]}M" if match else None


def names_of(revision: str) -> tuple[str, ...]:
    """The names that `revision_of` takes for a branch; the branch itself first."""
    match = _CHECKPOINT.fullmatch(revision)
    return (revision, f"words_{match[1]}000000") if match and match[1] else (revision,)


_SMALL = (*range(1, 11), *range(20, 101, 10))
TRACKS = {
    "strict-small": Track(10 * MILLION, 100 * MILLION, _SMALL),
    "strict": Track(100 * MILLION, 1000 * MILLION, (*_SMALL, *range(200, 1001, 100))),
}


@dataclass(frozen=True)
class File:
    """A file of predictions: its key in the submission, its place below zero_shot/BACKEND, and predictions by UID."""

    key: str
    task: str  # as the evaluation command calls it
    full: str
    sizes: Mapping[str, int]
    fast: str = ""  # "": not asked of checkpoints
    fast_sizes: Mapping[str, int] = field(default_factory=dict)
    pred: Pred = "text"
    has_probability: bool = False
    labels: int = 2  # where `pred` is a label
    starts: str = ""  # how answers begin that are this edition's: with a space, or with anything else ("no space"); "": either way
    never: str = ""  # what no candidate of this edition holds


@dataclass(frozen=True)
class Edition:
    """A year's collation. `aoa`: the keys of surprisals and score ("": not asked); `null`: what is missing stands as null in the file."""

    files: tuple[File, ...]
    aoa: tuple[str, str]
    null: bool


def _table(text: str) -> dict[str, int]:
    return {name: int(count) for name, _, count in (entry.rpartition(":") for entry in text.split())}


_BLIMP = _table("""
    adjunct_island:928 anaphor_gender_agreement:971 anaphor_number_agreement:931 animate_subject_passive:895 animate_subject_trans:923
    causative:818 complex_NP_island:846 coordinate_structure_constraint_complex_left_branch:906
    coordinate_structure_constraint_object_extraction:949 determiner_noun_agreement_1:929 determiner_noun_agreement_2:931
    determiner_noun_agreement_irregular_1:681 determiner_noun_agreement_irregular_2:820 determiner_noun_agreement_with_adj_2:941
    determiner_noun_agreement_with_adj_irregular_1:718 determiner_noun_agreement_with_adj_irregular_2:840
    determiner_noun_agreement_with_adjective_1:933 distractor_agreement_relational_noun:788 distractor_agreement_relative_clause:871
    drop_argument:920 ellipsis_n_bar_1:802 ellipsis_n_bar_2:828 existential_there_object_raising:812
    existential_there_quantifiers_1:930 existential_there_quantifiers_2:911 existential_there_subject_raising:924
    expletive_it_object_raising:759 inchoative:855 intransitive:868 irregular_past_participle_adjectives:961
    irregular_past_participle_verbs:942 irregular_plural_subject_verb_agreement_1:804 irregular_plural_subject_verb_agreement_2:892
    left_branch_island_echo_question:947 left_branch_island_simple_question:951 matrix_question_npi_licensor_present:929
    npi_present_1:909 npi_present_2:914 only_npi_licensor_present:882 only_npi_scope:837 passive_1:840 passive_2:903
    principle_A_c_command:946 principle_A_case_1:912 principle_A_case_2:915 principle_A_domain_1:914 principle_A_domain_2:915
    principle_A_domain_3:941 principle_A_reconstruction:967 regular_plural_subject_verb_agreement_1:890
    regular_plural_subject_verb_agreement_2:945 sentential_negation_npi_licensor_present:919 sentential_negation_npi_scope:871
    sentential_subject_island:961 superlative_quantifiers_1:979 superlative_quantifiers_2:986 tough_vs_raising_1:948
    tough_vs_raising_2:920 transitive:868 wh_island:960 wh_questions_object_gap:859 wh_questions_subject_gap:898
    wh_questions_subject_gap_long_distance:857 wh_vs_that_no_gap:861 wh_vs_that_no_gap_long_distance:875 wh_vs_that_with_gap:919
    wh_vs_that_with_gap_long_distance:910
""")
_SUPPLEMENT = _table("hypernym:842 qa_congruence_easy:64 qa_congruence_tricky:165 subject_aux_inversion:3867 turn_taking:280")
_EWOK = _table("""
    agent-properties:2210 material-dynamics:770 material-properties:170 physical-dynamics:120 physical-interactions:556
    physical-relations:818 quantitative-properties:314 social-interactions:294 social-properties:328 social-relations:1548
    spatial-relations:490
""")
_COMPS = _table("base:49340 wugs:13896 wugs_dist_before:13896 wugs_dist_in_between:13896")


def _entity_tracking(regular: tuple[int, ...], ambiref: tuple[int, ...], move_contents: tuple[int, ...]) -> dict[str, int]:
    """Items by split and number of operations, 0 to 5."""
    splits = {"regular": regular, "ambiref": ambiref, "move_contents": move_contents}
    return {f"{split}_{operations}_ops": count for split, counts in splits.items() for operations, count in enumerate(counts)}


_ENTITY_2025 = _entity_tracking((606, 607, 606, 606, 568, 159), (607, 607, 604, 604, 615, 187), (605, 606, 605, 606, 529, 156))
_ENTITY_2026 = _entity_tracking((517, 409, 405, 425, 388, 94), (508, 428, 413, 409, 434, 123), (516, 437, 399, 406, 353, 116))
_WUG_ADJ, _WUG_PAST = "wug_adj/wug_adj_nominalization", "wug_past/wug_past_tense"


def _files(entity_key: str, entity: dict[str, int], ewok_starts: str, entity_never: str) -> tuple[File, ...]:
    """What both years ask for; WUG is 2025's alone. An answer to EWoK is a target after a context in 2025, a whole sentence in 2026."""
    regular = {uid: count for uid, count in entity.items() if uid.startswith("regular")}
    return (
        File("blimp", "blimp", "blimp/blimp_filtered", _BLIMP, "blimp/blimp_fast", dict.fromkeys(_BLIMP, 200)),
        File(
            "blimp_supplement", "supplement", "blimp/supplement_filtered", _SUPPLEMENT,
            "blimp/supplement_fast", dict.fromkeys(_SUPPLEMENT, 50),
        ),
        File("ewok", "ewok", "ewok/ewok_filtered", _EWOK, "ewok/ewok_fast", dict.fromkeys(_EWOK, 100), starts=ewok_starts),
        File(
            entity_key, "entity_tracking", "entity_tracking/entity_tracking", entity,
            "entity_tracking/entity_tracking_fast", regular, never=entity_never,
        ),
        File("wug_adj", "wug_adj", _WUG_ADJ, {"wug_adj": 200}, _WUG_ADJ, {"wug_adj": 200}, has_probability=True),
        File("wug_past", "wug_past", _WUG_PAST, {"wug_past": 50}, _WUG_PAST, {"wug_past": 50}, has_probability=True),
        File("comps", "comps", "comps/comps", _COMPS),
        File("reading", "reading", "reading", {"reading": 1726}, "reading", {"reading": 1726}, pred="surprisal"),
    )  # fmt: skip


# Global PIQA names its predictions by example, one each.
_GLOBAL_PIQA = {"global_piqa_parallel": 103, "global_piqa_nonparallel": 100}
GLOBAL_PIQA = tuple(File(name, name, f"{name}/{name}", {"": count}, f"{name}/{name}", {"": count}) for name, count in _GLOBAL_PIQA.items())
GLUE = tuple(
    File(task, task, task, {task: count}, pred="label", labels=3 if task == "mnli" else 2)
    for task, count in _table("boolq:1635 mnli:4908 mrpc:204 multirc:2424 qqp:20215 rte:139 wsc:52").items()
)
AOA_CONTEXTS = 8005  # predictions of a checkpoint
EDITIONS = {
    "2025": Edition(_files("entity_tracking", _ENTITY_2025, "space", ""), ("aoa", ""), null=False),
    "2026": Edition(
        tuple(file for file in _files("entity_tracking_filtered", _ENTITY_2026, "no space", "nothing") if not file.has_probability)
        + GLOBAL_PIQA,
        ("aoa_surprisals", "aoa"),
        null=True,
    ),
}
