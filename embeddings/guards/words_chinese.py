"""The words of Chinese, in simplified characters; traditional ones are mapped first.

Nothing stands between two words there: what is in none of the lists is read character by
character. `word_lists` says how the lists are written.
"""

from typing import Final

from embeddings.guards.word_lists import words

TRADITIONAL: Final = dict(
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

DROPPED: Final = frozenset(
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
PARTICLES: Final = frozenset(
    words("的 了 吗 呢 啊 吧 呀 嘛 么 是 就 也 还 在 有 请 请问 哦 哈 您 你 们 把 将 与 跟")
)
"""Those of them that are part of hardly any name."""
PEOPLE: Final = frozenset(words("我 我们 他 她 它 他们 她们 它们 咱们 自己 我的"))
CONTENT: Final = frozenset(
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

NEGATIONS: Final = frozenset(
    words(
        "不 没 没有 无 别 未 非 勿 不要 不能 不可以 不是 不会 不用 无法 禁止 除了 从不"
        " 不得 不许 并非 莫 免"
    )
)

AXES: Final = """
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

SYNONYMS: Final = """
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

QUESTIONS: Final = {
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

NUMERALS: Final = {
    **{digit: value for value, digit in enumerate("零一二三四五六七八九")},
    **{"〇": 0, "两": 2, "壹": 1, "贰": 2, "叁": 3},
}
POWERS: Final = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}

TEMPORAL: Final = words(
    "今天 明天 昨天 后天 前天 现在 目前 以前 将来 去年 今年 明年 前年 后年 上个月 这个月"
    " 下个月 上周 这周 下周 本周 本月 今晚 明晚 昨晚 刚才 曾经"
    " 当前"
)
DATES: Final = words(
    "星期一 星期二 星期三 星期四 星期五 星期六 星期天 星期日 周一 周二 周三 周四 周五"
    " 周六 周日 春节 中秋节 元宵节 端午节 国庆节 清明节 圣诞节 春天"
    " 夏天 秋天 冬天 春季 夏季 秋季 冬季 周末 一月 二月 三月 四月 五月 六月 七月 八月 九月"
    " 十月 十一月 十二月"
)
TIMES: Final = words("早上 上午 中午 下午 晚上 凌晨 半夜 傍晚 早晨 夜里")
UNITS: Final = {
    **{
        unit: unit
        for unit in words("公里 英里 米 厘米 毫米 英尺 英寸 克 千克 毫克 斤 两 吨 升 毫升")
    },
    **{unit: unit for unit in words("分钟 小时 秒 每天 每周 每月 每年 摄氏度 华氏度")},
    **{"公斤": "千克", "千米": "公里", "米数": "米"},
}
CURRENCIES: Final = {
    **{
        name: name
        for name in words("美元 欧元 日元 英镑 港币 韩元 卢布 卢比 法郎 加元 澳元 比特币")
    },
    **{"人民币": "人民币", "美金": "美元", "港元": "港币"},
}
FUTURE: Final = "会"
