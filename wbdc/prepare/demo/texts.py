"""What made-up videos say: titles, speech and on-screen text, from a small vocabulary in which some
classes share all their words.
"""

from typing import NamedTuple

import numpy as np

# One row per top class, in the order of their ids: 20 characters that occur in no other row. The
# first six are common to
# all leaves of the topic; of the rest each pair of leaves has two. The topics are invented, the
# contest never named its own.
TOPICS = [
    "情感恋爱婚姻分手暧昧思念伴侣吵架牵挂约誓",
    "漫番萌忍魔耽傲娇宅腐御姐幻绘勇灵贼忠弹痴",
    "股票债基金银贷税利率券涨跌融币账投赚亏息",
    "猫狗犬兔鼠鸟鹦鹉龟羊牛虎狮鹿狐熊狼宠喵鸭",
    "笑逗糗段囧恶搞哈滑稽嬉闹吐槽沙雕梗坑贱损",
    "捐赠慈善志愿援助灾救帮扶募孤残献血环保暖",
    "病药医疗症疼痛压糖肺肝肾胃睡眠养湿骨脉针",
    "装修墙砖柜窗灯床桌椅厨卫橱板瓷漆刷锁阳台",
    "教师课考题语数英文化作业校班卷读背诵笔试",
    "朝帝皇宋唐清明秦汉古墓碑王侯臣史诗剑鼎玺",
    "芯片机脑屏码程序算法网络智能器件键据源联",
    "炒煮蒸烤炸锅盐酱醋葱蒜姜辣肉鱼虾面饭菜汤",
    "歌唱琴谱弦鼓曲调吉他词嗓音乐笛琵琶奏律声",
    "星演员粉丝绯闻红毯剧组偶像颁奖签艺娱八卦",
    "坦克导舰炮战军兵营阵旅雷达核潜艇航枪弩盾",
    "游山湖海岛景区民宿滩峡谷瀑布雪峰镇舟途驿",
    "婴奶宝孕妈育儿尿胎产疫苗辅食哺乳爬学抱哄",
    "汽车轮油刹引擎档驾驶座漏变速箱蓄排桥泵缸",
    "警察院诈骗案交通事故村街拆迁城管贪腥审囚",
    "裙衫裤鞋帽妆眉唇膏香水指甲穿搭潮牌包链戒",
    "球篮足乒羽泳跑跳赛冠射门队练举重拳击杯裁",
    "皮肤雄副本备位炫黑吃鸡野塔盟符咒坐骑氪斩",
    "影镜头房悬疑侦探科配预幕反派悲恐惊怖丧尸",
]
PLAIN = (
    "今天",
    "大家",
    "一起",
    "看看",
    "这个",
    "真的",
    "就是",
    "我们",
    "你们",
    "可以",
    "没有",
    "知道",
    "觉得",
    "时候",
    "现在",
    "然后",
    "因为",
    "所以",
    "什么",
    "怎么",
    "非常",
    "喜欢",
    "关注",
    "点赞",
    "视频",
    "推荐",
    "记得",
    "收藏",
    "到底",
    "太好了",
    "那么",
    "还是",
    "不会",
    "说到",
)
MUSIC = [
    "啦",
    "啦啦",
    "嗯",
    "哦",
    "呜",
    "耶",
    "嘿",
    "yeah",
    "oh",
    "la",
    "na",
    "na",
    "na",
]  # what speech recognition hears in a song
SHARED, OWN = 6, 14  # characters of a row


class ClassWords(NamedTuple):
    """The words of a leaf: own, which only its twin has too; topic, which every leaf of its top
    class has.
    """

    own: tuple[str, ...]
    topic: tuple[str, ...]


def class_words(topic: int, pair: int) -> ClassWords:
    """Derive the two-character words of the `pair`-th pair of leaves (0..13) of a top class
    (0..22).
    """
    shared, own = TOPICS[topic][:SHARED], TOPICS[topic][SHARED:]
    start, lap = (
        2 * pair % OWN,
        2 * pair // OWN,
    )  # from the eighth pair on, characters meet in new combinations
    a, b, s = own[start], own[(start + 1 + 2 * lap) % OWN], shared[(pair + 2 * lap) % SHARED]
    return ClassWords(
        (a + b, b + a, s + a, b + s),
        tuple(x + y for x, y in zip(shared, shared[1:] + shared[:1], strict=True)),
    )


def compose_texts(rng: np.random.Generator, leaf: ClassWords, seconds: int) -> dict:
    """Write the title (str), asr (str) and ocr ([{"time": second, "text": str}], time in
    0..seconds-1) of one video.
    """
    said = _other(rng) if rng.random() < 0.1 else leaf  # bait
    title = (
        _sentence(rng, said, int(rng.integers(3, 7)), own=0.14, topic=0.22)
        + ("", "！", "～", " #热门")[int(rng.integers(4))]
    )
    return {"title": title, "asr": _speech(rng, leaf), "ocr": _screen(rng, leaf, seconds)}


def edit_title(rng: np.random.Generator, title: str) -> str:
    """Change a title as a reposter does: not at all, or by a mark or a word at one end."""
    return (
        (title, title, title + "！", "【转】" + title, title.rstrip("！～") + "…")[
            int(rng.integers(5))
        ]
        if title
        else title
    )


def _speech(rng: np.random.Generator, leaf: ClassWords) -> str:
    """Speech is long and mostly empty talk; one video in five has only a song, one in seven talks
    of something else.
    """
    length, kind = int(np.clip(rng.lognormal(3.5, 0.7), 6, 600)), rng.random()  # words
    if kind < 0.2:
        return " ".join(MUSIC[i] for i in rng.integers(len(MUSIC), size=length // 3 + 1))
    if kind < 0.34:
        leaf = _other(rng)
    return _sentence(rng, leaf, length, own=0.025, topic=0.04)


def _screen(rng: np.random.Generator, leaf: ClassWords, seconds: int) -> list[dict]:
    """A caption stays for one to four seconds and is read anew each second, at times with a wrong
    character.
    """
    entries, time = [], 0
    while time < seconds:
        caption, stays = (
            _sentence(rng, leaf, int(rng.integers(2, 5)), own=0.05, topic=0.1),
            int(rng.integers(1, 5)),
        )
        shown = rng.random() < 0.75
        for second in range(time, min(time + stays, seconds)):
            if shown and rng.random() < 0.9:
                entries.append({"time": second, "text": _misread(rng, caption)})
        time += stays
    return entries


def _misread(rng: np.random.Generator, caption: str) -> str:
    if rng.random() >= 0.1:
        return caption
    place, wrong = int(rng.integers(len(caption))), str(rng.choice(list("口日目田一丨|0")))
    return caption[:place] + wrong + caption[place + 1 :]


def _sentence(
    rng: np.random.Generator,
    leaf: ClassWords,
    length: int,
    *,
    own: float,
    topic: float,
    wrong: float = 0.05,
) -> str:
    """Join `length` words: a share `own` of the leaf's, `topic` of its topic's, `wrong` of any
    other leaf's, the rest plain.
    """
    parts = []
    for kind, pick in zip(rng.random(length), rng.random(length), strict=True):
        if kind < own:
            pool = leaf.own
        elif kind < own + topic:
            pool = leaf.topic
        else:
            pool = sum(_other(rng), ()) if kind > 1 - wrong else PLAIN
        parts.append(pool[int(pick * len(pool))])
    return "".join(
        part + ("，" if i % 5 == 4 and i + 1 < length else "") for i, part in enumerate(parts)
    )


def _other(rng: np.random.Generator) -> ClassWords:
    return class_words(int(rng.integers(len(TOPICS))), int(rng.integers(OWN // 2)))
