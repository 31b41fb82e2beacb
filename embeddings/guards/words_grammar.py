"""What English words do in a sentence: they ask, tell the time of a verb, or say nothing at all."""

from typing import Final

from embeddings.guards.word_lists import words

FUNCTION: Final = frozenset(
    words(
        # articles, pronouns, possessives
        "a an the this that these those some any each there here it its i me my mine myself"
        " we us our ours you"
        " your yours he him his she her hers they them their theirs one ones someone"
        " something anyone anything"
        # auxiliaries
        " be is are was were been being am do does did done doing have has had having will"
        " would shall should can"
        " could may might must ought need needs needed going gonna get gets got getting let lets"
        # prepositions and conjunctions
        " of to in on at by from into onto with for about as than and or but so because if"
        " then that while"
        " during via per through up down out off like regarding concerning upon around"
        " between among"
        # question words
        " what which who whom whose when where why how whether"
        # courtesy and frames
        " please pls plz thanks thank hi hello hey dear kindly sorry excuse just also too"
        " even really actually"
        " want wants wanted wish wanna would love try trying tried tell know explain"
        " describe define meaning"
        " mean means meant help wonder wondering understand find see say said give show ask"
        " question way ways"
        " possible able possibly exactly still yet already again very much quite simply"
        " basically called"
        " currently now right ok okay well hence therefore however anyway such same own other"
        " thing things kind sort type lot bit"
    )
) - {"right", "sort", "thank"}

MOVABLE: Final = frozenset(words("in on at with using via for within during as"))
"""A word after one of these says where, when or how, and may stand anywhere in a sentence."""

GOALS: Final = frozenset(words("to into than by against onto"))
SOURCES: Final = frozenset({"from", "of"})

TENSES: Final = {
    **dict.fromkeys(words("is are am do does"), "present"),
    **dict.fromkeys(words("was were did had"), "past"),
    **dict.fromkeys(words("has have"), "perfect"),
    **dict.fromkeys(words("will gonna shall won't"), "future"),
}

PAST: Final = frozenset(
    words(
        "won sold went came saw wrote spoke stole chose began paid left met ran rose fell grew ate"
        " drove flew taught"
    )
)

HOW: Final = {
    **dict.fromkeys(words("many"), "number"),
    **dict.fromkeys(words("much"), "amount"),
    **dict.fromkeys(words("long quickly soon fast"), "duration"),
    **dict.fromkeys(words("often frequently"), "often"),
    **dict.fromkeys(words("far"), "distance"),
    **dict.fromkeys(words("old young"), "age"),
    **dict.fromkeys(words("tall high deep wide big large small heavy"), "size"),
    **dict.fromkeys(words("come"), "why"),
}
QUESTION: Final = {
    **{"who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where"},
    **{"why": "why", "how": "how", "what": "what", "which": "what", "what's": "what"},
}
ASKED: Final = {
    **dict.fromkeys(words("time year date day month hour"), "when"),
    **dict.fromkeys(words("place places city country town location address"), "where"),
    **dict.fromkeys(
        words("reason reasons cause causes caused makes making wrong happened happening going"),
        "why",
    ),
    **dict.fromkeys(words("person author writer inventor playwright artist name"), "who"),
    **dict.fromkeys(
        words("way ways method procedure process steps best recipe instructions do"),
        "how",
    ),
    **dict.fromkeys(words("price cost fee amount charge total"), "amount"),
    **dict.fromkeys(words("number population count"), "number"),
    **dict.fromkeys(words("distance"), "distance"),
    **dict.fromkeys(words("duration length wait"), "duration"),
    **dict.fromkeys(words("age"), "age"),
    **dict.fromkeys(words("frequency"), "often"),
    **dict.fromkeys(words("height size depth weight width"), "size"),
}
"""What a question with "what" asks, by a word somewhere in it."""

PARTICLE_VERBS: Final = frozenset(
    words(
        "turn turned turning switch switched switching log logged logging sign signed signing"
        " check checked checking opt opted plug plugged power powered clock clocked go goes"
        " went going put keep leave hop get getting zoom scroll pick drop scale"
    )
)
PARTICLES_UP: Final = frozenset(words("on in into onto up"))
PARTICLES_DOWN: Final = frozenset(words("off out down"))

LOOSE: Final = MOVABLE | SOURCES
THIRD_PERSON: Final = frozenset(words("he him she her they them his hers their"))
PRONOUNS: Final = THIRD_PERSON | frozenset(words("i me we us you my your our"))
BE: Final = frozenset(
    words("be is are was were been being am get gets got getting isn't aren't wasn't")
)
AUXILIARY: Final = frozenset(
    words(
        "is are am was were do does did can could will would should shall has have had may"
        " might must 's"
    )
)
MENTAL: Final = frozenset(words("know understand sure remember certain see clear figure idea tell"))
ASKED_FOR: Final = frozenset(words("why how what where when who which if whether that"))
"""Behind a negated one of `MENTAL`, these say what is asked."""
BEHIND_A_LETTER: Final = frozenset(words("from to and or is by implies equals times plus minus"))
"""Before one of these, "a" is a letter."""
