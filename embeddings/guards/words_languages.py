"""What tells languages of Latin letters apart, and how each says no."""

from typing import Final

from embeddings.guards.word_lists import words

_NEGATIONS = {
    "en": (
        "no not never none nobody nothing nowhere neither nor without cannot cant dont"
        " doesnt didnt wont wouldnt"
        " shouldnt couldnt isnt arent wasnt werent hasnt havent hadnt aint non unable"
        " unless except hardly"
        " barely rarely seldom lack lacks lacking"
    ),
    "de": "nicht kein keine keinen keinem keiner nie niemals nichts niemand ohne weder",
    "fr": "ne pas jamais sans aucun aucune rien personne ni",
    "es": "no nunca sin nada nadie ningún ninguna ni tampoco jamás",
    "it": "non mai senza niente nulla nessuno né",
    "pt": "não nunca sem nada ninguém nenhum nem",
    "nl": "niet geen nooit zonder niets niemand",
}

_FUNCTION = {
    "en": (
        "the is are was were be do does did how what which who when where why can could"
        " would should i my you your"
        " it this that of and to for with from have has not please there they we he she an"
        " will explain"
    ),
    "de": (
        "der die das den dem des ein eine einen einem einer ist sind war wie wo wer wann"
        " warum kann können ich mein"
        " meine meinen du sie wir und oder nicht für mit auf von zu im bei wird gibt es sich mich"
    ),
    "fr": (
        "le la les un une des du de est sont comment quel quelle quels quelles où qui quand"
        " pourquoi je mon ma mes"
        " vous et ou pas pour avec sur dans puis peut ce cette il elle nous au aux"
    ),
    "es": (
        "el la los las un una unos de del es son cómo como cuál qué quién cuándo dónde por"
        " mi mis tu su y o no para con"
        " en puedo puede se yo al está hay"
    ),
    "it": (
        "il lo la gli le un una di del della è sono come quale che chi quando dove perché"
        " mio mia e o non per con su"
        " nel posso può si"
    ),
    "pt": (
        "o a os as um uma de do da é são como qual que quem quando onde por meu minha e ou"
        " não para com em no na posso"
        " pode se"
    ),
    "nl": (
        "de het een is zijn hoe wat welke wie wanneer waar waarom kan ik mijn je jouw en of"
        " niet voor met op van naar in"
    ),
}

NEGATIONS: Final = {language: frozenset(words(text)) for language, text in _NEGATIONS.items()}
FUNCTION: Final = {language: frozenset(words(text)) for language, text in _FUNCTION.items()}
"""The commonest function words: whose are most, is taken for the language."""
