"""Numbers, units, currencies and times, as English writes them."""

from typing import Final

from embeddings.guards.word_lists import firsts, words

NUMBERS: Final = {
    **{
        word: str(value)
        for value, word in enumerate(
            words(
                "zero - two three four five six seven eight nine ten eleven twelve thirteen"
                " fourteen"
                " fifteen sixteen seventeen eighteen nineteen"
            )
        )
    },
    **{
        word: str(20 + 10 * index)
        for index, word in enumerate(words("twenty thirty forty fifty sixty seventy eighty ninety"))
    },
    **{"hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000"},
    **{"trillion": "1000000000000", "dozen": "12", "half": "1/2", "quarter": "1/4", "third": "#3"},
    **{
        word: f"#{value}"
        for value, word in enumerate(
            words(
                "fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
                " fourteenth"
                " fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
            ),
            4,
        )
    },
}
WEAK_NUMBERS: Final = {
    **{
        "one": "1",
        "once": "x1",
        "single": "x1",
        "double": "x2",
        "twice": "x2",
        "triple": "x3",
        "thrice": "x3",
        "first": "#1",
        "second": "#2",
    },
    **{"couple": "2", "pair": "2", "both": "2"},
}
"""These often say nothing: they conflict with another number only, not with none."""

_UNITS = """
mm millimetre millimeter | cm centimetre centimeter | m metre meter
km kilometre kilometer kilometres
inch inches | ft foot feet | yd yard | mile miles mi
mg milligram milligramme | g gram gramme gr | kg kilo kilogram | ton tonne | oz ounce | lb lbs
stone
ml millilitre milliliter | l litre liter | gallon gal | pint | cup | tablespoon tbsp
teaspoon tsp | quart
kb kilobyte | mb megabyte | gb gigabyte | tb terabyte | bit bits | byte bytes
ms millisecond | seconds sec secs | minute min mins minutes | hour hr hrs hourly | daily | day days
week weekly weeks | month monthly months | year yearly annual annually years | decade
century centuries
fortnight | percent % pct | celsius °c | fahrenheit °f | kelvin | watt | kw kilowatt | volt
amp ampere
mph | kph kmh | acre | hectare | joule | calorie kcal calories | hz hertz | mhz | ghz
degree degrees °
"""
UNITS: Final = firsts(_UNITS)
SHORT_UNITS: Final = frozenset(words("m g l c f k h s t d min in bit mi gal ms"))
"""Units only behind a number."""

_CURRENCIES = """
usd dollar dollars $ us$ buck bucks | eur euro euros € | gbp £ sterling quid | jpy yen ¥
cny yuan rmb renminbi
chf franc francs | inr rupee rupees ₹ | rub ruble rubles rouble roubles ₽ | krw won ₩ | cad c$
aud a$ | nzd | hkd
sek | nok | dkk krone kroner | pln zloty | czk koruna | try lira | brl real reais
mxn peso pesos | btc bitcoin ₿
eth ether ethereum | cent cents | penny pence | pound pounds
"""
CURRENCIES: Final = {
    word: first
    for word, first in firsts(_CURRENCIES).items()
    if word not in ("real", "try", "won", "sek")
}

_DATES = """
monday mon mondays | tuesday tue tues tuesdays | wednesday wed wednesdays
thursday thu thurs thursdays
friday fri fridays | saturday sat saturdays | sunday sundays | january jan | february feb
march | april apr
june jun | july jul | august aug | september sept | october oct | november nov | december dec
spring | summer | autumn | winter | christmas xmas | easter | thanksgiving | halloween | ramadan
diwali | hanukkah
weekend weekends | weekday weekdays
twenties 20s | thirties 30s | forties 40s | fifties 50s | sixties 60s | seventies 70s
eighties 80s | nineties 90s
"""
DATES: Final = firsts(_DATES) | {"may": "may", "sun": "sunday"}
CAPITAL_DATES: Final = frozenset({"march", "may", "mon", "sat", "sun", "wed", "jan", "august"})
"""Also everyday words: a date only with a capital, behind "in" or "on", or beside a number."""

_TIMES = """
am a.m. | pm p.m. | noon midday | midnight | morning mornings | afternoon afternoons
evening evenings
night nights nighttime overnight | utc gmt | est edt | pst pdt | cst cdt | cet cest | ist | jst
bst
"""
TIMES: Final = firsts(_TIMES)

NOT_NOW: Final = {
    **{"yesterday": "yesterday", "tomorrow": "tomorrow", "formerly": "past"},
    **{
        "previously": "past",
        "former": "past",
    },
    **{"next": "next", "last": "last", "previous": "last", "past": "last"},
}
NOW: Final = {"today": "today", "tonight": "tonight", "now": "now", "currently": "now"} | {
    "current": "now",
    "this": "this",
    "nowadays": "now",
    "then": "then",
}
PERIODS: Final = frozenset(
    words(
        "week month year weekend day night quarter season time summer winter spring autumn"
        " monday tuesday wednesday thursday friday saturday sunday morning evening century"
        " decade"
    )
)
"""What "last", "next" and "this" must stand before, to speak of time."""
