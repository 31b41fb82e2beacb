"""What English words mean: opposites, synonyms, irregular forms, names.

Words that are in none of the lists count as content: what a question is about. `word_lists` says
how the lists are written.
"""

from typing import Final

from embeddings.guards.word_lists import words

AXES: Final = """
enable activate | disable deactivate
safe harmless | unsafe dangerous harmful hazardous
ascend ascending rise rising | descend descending fall falling
increase raise grow | decrease reduce lower shrink
gain | lose
before prior | after following afterwards
buy purchase | sell
import | export
minimum minimal min | maximum maximal max
open | close shut
upload | download
encrypt encode | decrypt decode
lock | unlock
install | uninstall
subscribe | unsubscribe
connect | disconnect
mute | unmute
push | pull
pass passed | fail failed
win | lose
lend loan | borrow
send | receive
add include including | remove exclude excluding delete
accept approve allow permit | decline reject refuse deny forbid prohibit ban
deposit | withdraw
credit | debit
sender | recipient receiver
employer | employee
landlord | tenant
legal lawful | illegal unlawful
advantage benefit pro | disadvantage drawback con downside
strength | weakness
best | worst
better | worse
good | bad
high higher highest | low lower lowest
upper top | lower bottom
first | last
begin start beginning | end finish stop ending
early earlier earliest | late later latest
young younger youngest | old older oldest
new newer newest | old older oldest
fast faster fastest quick quickly quicker quickest | slow slower slowest slowly
hot hotter hottest warm warmer warmest | cold colder coldest cool cooler coolest
big bigger biggest large larger largest | small smaller smallest little tiny
long longer longest | short shorter shortest
tall taller tallest | short shorter shortest
heavy heavier heaviest | light lighter lightest
strong stronger strongest | weak weaker weakest
wide wider widest | narrow narrower narrowest
deep deeper deepest | shallow shallower shallowest
thick thicker thickest | thin thinner thinnest
rich richer richest | poor poorer poorest
easy easier easiest simple | hard harder hardest difficult
cheap cheaper cheapest | expensive dear costly
more | less fewer
most | least fewest
above over | below under
inside within | outside
indoor indoors | outdoor outdoors
inbound incoming | outbound outgoing
internal | external
domestic | international
public | private
for | against
left | right
left | right
north northern | south southern
east eastern | west western
always ever | never
all every everyone everybody always | none nobody
with | without
if | unless
entrance entry | exit
arrive arrival | depart departure leave
ancestor parent | descendant child
male man boy | female woman girl
husband | wife
brother | sister
mother | father
son | daughter
day daytime | night nighttime
sunrise dawn | sunset dusk
true | false
right correct | wrong incorrect
positive | negative
plus | minus
even | odd
full | empty
wet | dry
alive | dead
hire | fire
attack | defend
love | hate
question | answer
input | output
read | write
save | spend
compress zip | decompress unzip extract
expand | collapse
show | hide
visible | invisible
remember | forget
freeze | thaw melt
rent lease | own
ally friend | enemy
cause | effect
supply | demand
teacher | student pupil
doctor | patient
vertical | horizontal
odd | even
singular | plural
beginner | expert
front | rear back
push | pull
success succeed | failure fail
present | absent
presence | absence
include | exclude
former previous | current present
convex | concave
synchronous sync | asynchronous async
synonym | antonym
optional voluntary | mandatory compulsory required
temporary | permanent
gross | net
wholesale | retail
birth born | death die
marry marriage | divorce
before prior | during
during | after afterwards
"""

SYNONYMS: Final = """
change update modify edit alter
delete erase
get obtain
mobile cellphone smartphone
photo picture image
movie film
job work
buy purchase order
child kid
begin start commence
end finish
quick quickly fast
big large
repair fix solve resolve
dict dictionary
directory folder
cost price fee charge
happen occur
make create build prepare
cook bake
use utilize utilise
show display list
find locate
error problem issue
pick choose select
speak talk
doctor physician
car automobile
customer client
company firm business
contain include have
allow permit accept
contact reach
card cards
country nation
abroad overseas
ship deliver shipping delivery
verify confirm
identity id
money fund funds cash
account acct
send transfer
top topup
lose lost misplace
steal stolen
decline reject
arrive come
receive get
wait pending
broken defective faulty
summarise summary summarize
recommend suggest
story tale
phone telephone
reason cause
like similar
trip journey
best good
cellphone phone
laptop notebook
pic photo
application app
bill invoice
vacation holiday
song track
restaurant diner
book reserve
write author writer
"""

IRREGULAR: Final = """
sell sold | lend lent | buy bought | send sent | lose lost losing | give gave given
take took taken | win won winning
tell told | say said | go went gone | come came | see saw seen | know knew known
write wrote written writing
speak spoke spoken | break broke broken | steal stole stolen | choose chose chosen
forget forgot forgotten
begin began begun | find found | pay paid | hold held | keep kept | leave left | mean meant
meet met | read
run ran running | rise rose risen | fall fell fallen | grow grew grown | eat ate eaten
drink drank drunk
drive drove driven | fly flew flown | build built | bring brought | think thought | teach taught
catch caught
make made | beat beaten | bite bit bitten | hit hitting | sit sat | stand stood | wear wore worn
shoot shot
child children kids | man men | woman women | person people | foot feet | tooth teeth
mouse mice | wife wives
life lives | knife knives | leaf leaves | half halves | withdraw withdrew withdrawn
freeze froze frozen
receive received receiving | charge charged charging | die died dying | lie lied lying
use used using
try tried tries | deny denied | apply applied | reply replied | copy copied | verify verified
reset resetting
centre center centred centered | metre meter | litre liter | colour color | favourite favorite
"""

NAMELESS: Final = frozenset(
    words(
        "i i'm i'd i've i'll im id ive ok okay asap faq hi hello thanks dear sir madam pin"
        " atm atms id ids tv pc mr mrs ms dr god english am pm a the what how why when where"
        " who which is are can do does did my please could would"
    )
) - {"english", "ms", "god"}

ALIASES: Final = {
    **dict.fromkeys(words("US USA America American Americans usa america american"), "usa"),
    **dict.fromkeys(words("UK Britain British uk britain british"), "uk"),
    **dict.fromkeys(words("EU Europe European eu europe european"), "europe"),
}
"""Names of one thing, as written: "us" is a pronoun."""
