"""Scripts are read off letters, and models know theirs."""

import pytest

from embeddings.encoding.scripts import all_scripts, scripts_of, trained_for


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("How do I reset it?", {"Latin"}),
        ("Grüße, naïve coöperation; Tiếng Việt", {"Latin"}),
        ("Как сбросить пароль?", {"Cyrillic"}),
        ("Πώς;", {"Greek"}),
        ("如何重置密码?", {"Han"}),
        ("人々", {"Han"}),
        ("パスワードをリセット", {"Hiragana", "Katakana"}),
        ("ｶﾀｶﾅ", {"Katakana"}),
        ("비밀번호", {"Hangul"}),
        ("كلمة المرور", {"Arabic"}),
        ("סיסמה", {"Hebrew"}),
        ("पासवर्ड", {"Devanagari"}),
        ("รหัสผ่าน", {"Thai"}),
        ("ＡＢＣ", {"Latin"}),
        ("Reset the пароль", {"Latin", "Cyrillic"}),
        ("the pаssword", {"Latin", "Cyrillic"}),  # the second letter is a Cyrillic one
    ],
)
def test_script_is_that_of_the_letters(text: str, scripts: set[str]) -> None:
    """One letter is enough."""
    assert scripts_of(text) == scripts


@pytest.mark.parametrize(
    "text", ["", " ", "42 + 7 = ?", "😀 🇩🇪", "5 µ", "1ª, 2º", "ℵ𝒙𝟒", "\u0301", "€"]
)
def test_what_serves_all_scripts_is_of_none(text: str) -> None:
    """Digits, punctuation, emoji, marks and signs that Unicode counts as letters."""
    assert scripts_of(text) == frozenset()


def test_default_model_is_for_latin_letters() -> None:
    """It was trained on English."""
    assert trained_for("all-MiniLM-L6-v2") == {"Latin"}


@pytest.mark.parametrize(
    "name", ["intfloat/multilingual-e5-small", "/models/multilingual-e5-small/"]
)
def test_known_model_is_known_by_the_last_part_of_its_name(name: str) -> None:
    """A copy in a folder is still that model."""
    assert {"Latin", "Han", "Cyrillic", "Tamil"} <= trained_for(name)


def test_unknown_model_is_taken_to_be_for_latin_letters() -> None:
    """A wrong answer costs more than a hit that was missed."""
    assert trained_for("acme/encoder") == {"Latin"}


def test_scripts_of_known_models_are_ones_that_letters_can_have() -> None:
    """A misspelt name in the table would refuse a script for ever."""
    known = ["all-MiniLM-L6-v2", "distiluse-base-multilingual-cased-v1", "LaBSE", "bge-m3"]

    for name in known:
        assert trained_for(name) <= all_scripts()
