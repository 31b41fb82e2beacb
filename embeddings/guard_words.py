"""The words that the guards know, in groups.

Words that are not here count as content: what a question is about. A line of `AXES` is one axis:
the words of its one end, `|`, the words of the other; the words of one end mean the same, roughly.
A line of `SYNONYMS` is a group too. All are written as they stand in running text, in lower case;
the guards find inflected forms by themselves.
"""

from typing import Final


def words(text: str) -> list[str]:
    """Return the words of one of the lists below."""
    return text.split()


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

NEGATIONS: Final = {
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

LANGUAGES: Final = {
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
UNITS: Final = {
    word: group.split()[0]
    for line in _UNITS.strip().splitlines()
    for group in line.split("|")
    for word in group.split()
}
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
    word: group.split()[0]
    for line in _CURRENCIES.strip().splitlines()
    for group in line.split("|")
    for word in group.split()
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
DATES: Final = {
    word: group.split()[0]
    for line in _DATES.strip().splitlines()
    for group in line.split("|")
    for word in group.split()
} | {"may": "may", "sun": "sunday"}
CAPITAL_DATES: Final = frozenset({"march", "may", "mon", "sat", "sun", "wed", "jan", "august"})
"""Also everyday words: a date only with a capital, behind "in" or "on", or beside a number."""

_TIMES = """
am a.m. | pm p.m. | noon midday | midnight | morning mornings | afternoon afternoons
evening evenings
night nights nighttime overnight | utc gmt | est edt | pst pdt | cst cdt | cet cest | ist | jst
bst
"""
TIMES: Final = {
    word: group.split()[0]
    for line in _TIMES.strip().splitlines()
    for group in line.split("|")
    for word in group.split()
}

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

TENSES: Final = {
    **dict.fromkeys(words("is are am do does"), "present"),
    **dict.fromkeys(words("was were did had"), "past"),
    **dict.fromkeys(words("has have"), "perfect"),
    **dict.fromkeys(words("will gonna shall won't"), "future"),
}

PAST: Final = (
    "won sold went came saw wrote spoke stole chose began paid left met ran rose fell grew ate"
    " drove flew taught"
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
PARTICLES: Final = "on in into onto up | off out down"

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

# --- Chinese, in simplified characters; traditional ones are mapped below.

HAN_TRADITIONAL: Final = dict(
    zip(
        "麼碼嗎個為會無沒過開關買賣進導後從來說話誰樣這裡裏機銀帳賬號戶訂單貨時間點鐘號兩"
        "萬億歲錢幣歐韓國語學寫書請問還電腦網頁頭減"
        "漲優壓長遠遲貴輸贏賬裝載載傳閉總統現錄",
        "么码吗个为会无没过开关买卖进导后从来说话谁样这里里机银账账号户订单货时间点钟号两"
        "万亿岁钱币欧韩国语学写书请问还电脑网页头减"
        "涨优压长远迟贵输赢账装载载传闭总统现录",
        strict=True,
    )
)

HAN_DROPPED: Final = frozenset(
    words(
        "的 了 吗 呢 啊 吧 呀 嘛 么 是 就 都 也 还 在 有 请 请问 你好 您好 麻烦 谢谢 帮我"
        " 给我 帮忙 告诉我 告诉 我想 我要 我想要 想 想要 我需要"
        " 需要 要 能 可以 能够 可不可以 能不能 是不是 会不会 有没有 要不要 一下 一个 一些"
        " 一种 一首 一篇 才能 怎么才能 解释 说明 介绍 这个 那个 这 那 个"
        " 和 与 跟 对 把 被 将 地 得 着 过 用 使用 关于 方法 办法 做法 等于 进行 给 到 从"
        " 于 所 之 其 呢 哦 哈 很 好看 你能 你可以 能否 是否"
        " 可否 我该 应该 该 你们 您 你 们 本 只 条 首 吃饭吗 成 为 会 被 得 里 向 往 说 叫"
        " 知道 怎么回事 怎么办 一般 一起 一定 一直 一样 特别 不过"
        " 不错 非常 家 们 位 座 张 部 岁 份"
    )
)
HAN_PARTICLES: Final = frozenset(
    words("的 了 吗 呢 啊 吧 呀 嘛 么 是 就 也 还 在 有 请 请问 哦 哈 您 你 们 把 将 与 跟")
)
"""Those of them that are part of hardly any name."""
HAN_PEOPLE: Final = frozenset(words("我 我们 他 她 它 他们 她们 它们 咱们 自己 我的"))
HAN_CONTENT: Final = frozenset(
    words(
        "成都 首都 都市 目的 用户 会议 会员 机会 社会 地址 地图"
        " 不同 不锈钢 区别 性别 级别 别人 别的 告别 类别 个别 无线 无论 未来 非洲 非法"
        " 免费 三明治 四川 百度 千万 十分 五金 一线 万一 开会 开始 上海"
        " 下雨 下雪 上班 下班 上网 大小 关于 没问题 海关 开心 关心 关系 重庆 中国 日本"
        " 后端 前端 不但 不仅 有名 长江 高中 大象 明白 明星 年轻 年龄 月亮"
        " 日元 日语 周末 小说 小时候 大家 大学 小学 高考 里面 低碳 出口 出生 出现 出门"
        " 进度 前任 后悔 长城 高血压 低血压 南京 北京 东京 西安 东西 左右"
        " 买卖 多少 快递 慢跑 快乐 轻松 贵州 新加坡 新闻 好吃"
    )
) - {"关于", "高血压", "低血压", "出口"}

HAN_NEGATIONS: Final = frozenset(
    words(
        "不 没 没有 无 别 未 非 勿 不要 不能 不可以 不是 不会 不用 无法 禁止 除了 从不"
        " 不得 不许 并非 莫 免"
    )
)

HAN_AXES: Final = """
打开 开启 启用 开 | 关闭 禁用 停用 关
买 购买 | 卖 出售
上 | 下
增加 提高 增大 增 | 减少 降低 减小 减
升 升序 上升 | 降 降序 下降
优点 好处 优势 | 缺点 坏处 劣势
之前 以前 前 | 之后 以后 后
高 | 低
登录 登陆 登入 | 退出 登出
安全 | 危险
导入 进口 | 导出 出口
上传 | 下载
加密 | 解密
合法 | 非法 违法
左 左边 | 右 右边
入口 进 | 出口 出
最大 最多 至多 | 最小 最少 至少
大 | 小
多 超过 大于 高于 | 少 少于 小于 低于
快 | 慢
长 | 短
重 | 轻
贵 | 便宜
新 | 旧
早 | 晚
冷 | 热
远 | 近
强 | 弱
胖 肥 | 瘦
赢 胜 | 输 败
安装 | 卸载
借入 | 借出
收到 收 接收 | 发送 寄出 发
存 存款 | 取 取款
正确 对的 | 错误的 错的
男 | 女
东 | 西
南 | 北
支持 | 反对
同意 接受 允许 | 拒绝 反对
开始 | 结束
注册 开户 | 注销 销户
添加 加 | 删除 移除
连接 | 断开
锁定 | 解锁
好 | 坏 差
真 | 假
包括 包含 | 除了 排除
有糖 | 无糖
"""

HAN_SYNONYMS: Final = """
账号 账户 帐号 帐户
修改 更改 更换 变更 改
重置 重设
办理 办
丢 丢失 遗失
城市 市
电话 手机号
作者 写
喜欢 爱
图片 照片
推荐 建议
总结 概括
"""

HAN_QUESTIONS: Final = {
    **dict.fromkeys(words("怎么 如何 怎样 怎么样 咋 咋样"), "how"),
    **dict.fromkeys(words("为什么 为何 为啥 怎么会 凭什么"), "why"),
    **dict.fromkeys(words("谁 什么人 哪位"), "who"),
    **dict.fromkeys(words("什么时候 何时 几点 哪天 几号 哪年 哪一年"), "when"),
    **dict.fromkeys(words("哪里 哪儿 在哪 哪 什么地方 哪个城市 到哪"), "where"),
    **dict.fromkeys(words("多少 几个 几"), "number"),
    **dict.fromkeys(words("多少钱 什么价格"), "amount"),
    **dict.fromkeys(words("多久 多长时间 多长"), "duration"),
    **dict.fromkeys(words("多大 多高 多远 多重"), "size"),
    **dict.fromkeys(words("什么 啥 哪些 哪个 哪种 什么样"), "what"),
}

HAN_NUMERALS: Final = {
    **{digit: value for value, digit in enumerate("零一二三四五六七八九")},
    **{"〇": 0, "两": 2, "壹": 1, "贰": 2, "叁": 3},
}
HAN_POWERS: Final = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}

HAN_TEMPORAL: Final = words(
    "今天 明天 昨天 后天 前天 现在 目前 以前 将来 去年 今年 明年 前年 后年 上个月 这个月"
    " 下个月 上周 这周 下周 本周 本月 今晚 明晚 昨晚 刚才 曾经"
    " 当前"
)
HAN_DATES: Final = words(
    "星期一 星期二 星期三 星期四 星期五 星期六 星期天 星期日 周一 周二 周三 周四 周五"
    " 周六 周日 春节 中秋节 元宵节 端午节 国庆节 清明节 圣诞节 春天"
    " 夏天 秋天 冬天 春季 夏季 秋季 冬季 周末 一月 二月 三月 四月 五月 六月 七月 八月 九月"
    " 十月 十一月 十二月"
)
HAN_TIMES: Final = words("早上 上午 中午 下午 晚上 凌晨 半夜 傍晚 早晨 夜里")
HAN_UNITS: Final = {
    **{
        unit: unit
        for unit in words("公里 英里 米 厘米 毫米 英尺 英寸 克 千克 毫克 斤 两 吨 升 毫升")
    },
    **{unit: unit for unit in words("分钟 小时 秒 每天 每周 每月 每年 摄氏度 华氏度")},
    **{"公斤": "千克", "千米": "公里", "米数": "米"},
}
HAN_CURRENCIES: Final = {
    **{
        name: name
        for name in words("美元 欧元 日元 英镑 港币 韩元 卢布 卢比 法郎 加元 澳元 比特币")
    },
    **{"人民币": "人民币", "美金": "美元", "港元": "港币"},
}
HAN_FUTURE: Final = "会"
