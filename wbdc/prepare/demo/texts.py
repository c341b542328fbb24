"""The texts of synthetic videos: titles, speech and on-screen text, from a small vocabulary in
which some classes share all their words.
"""

from typing import NamedTuple

import numpy as np

# One row for each topic (top-level class), in the order of ids: 20 characters that occur in no
# other row. All classes of a topic share the first six; each pair of classes has two of the others.
# The topics are invented: the contest published only ids.
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
COMMON_WORDS = (
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
# "words" that speech recognition returns for a song
SONG_WORDS = (
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
)
TOPIC_CHARACTERS, CLASS_CHARACTERS = 6, 14  # of a row of TOPICS
MISREAD_CHARACTERS = "口日目田一丨|0"
# rates at which a title, speech, caption or character does not match the class
BAIT_TITLE_RATE = 0.1
SONG_RATE, OFF_TOPIC_RATE = 0.2, 0.14  # of speech
CAPTION_RATE = 0.75
RECOGNIZED_RATE = 0.9
MISREAD_RATE = 0.1
WORDS_PER_CLAUSE = 5


class ClassWords(NamedTuple):
    """The words of a class: `pair` is shared with the other class of its pair, `topic` with all
    classes of its topic.
    """

    pair: tuple[str, ...]
    topic: tuple[str, ...]


def class_words(topic: int, pair: int) -> ClassWords:
    """Return the two-character words of a pair of classes (0..13) of a topic (0..22)."""
    shared = TOPICS[topic][:TOPIC_CHARACTERS]
    characters = TOPICS[topic][TOPIC_CHARACTERS:]
    # from the eighth pair on, the characters are combined differently
    start, lap = 2 * pair % CLASS_CHARACTERS, 2 * pair // CLASS_CHARACTERS
    first = characters[start]
    second = characters[(start + 1 + 2 * lap) % CLASS_CHARACTERS]
    common = shared[(pair + 2 * lap) % TOPIC_CHARACTERS]
    return ClassWords(
        (first + second, second + first, common + first, second + common),
        tuple(a + b for a, b in zip(shared, shared[1:] + shared[:1], strict=True)),
    )


def compose_texts(rng: np.random.Generator, words: ClassWords, seconds: int) -> dict:
    """Compose the title (str), asr (str) and ocr ([{"time": second, "text": str}], time in
    0..seconds-1) of one video.
    """
    title_words = _random_class(rng) if rng.random() < BAIT_TITLE_RATE else words
    length = int(rng.integers(3, 7))
    title = _compose_sentence(rng, title_words, length, pair_share=0.14, topic_share=0.22)
    title += ("", "！", "～", " #热门")[int(rng.integers(4))]
    return {
        "title": title,
        "asr": _compose_speech(rng, words),
        "ocr": _compose_captions(rng, words, seconds),
    }


def edit_title(rng: np.random.Generator, title: str) -> str:
    """Change a title as a repost does: not at all, or by a mark or a word at one end."""
    edits = (title, title, title + "！", "【转】" + title, title.rstrip("！～") + "…")
    return edits[int(rng.integers(len(edits)))] if title else title


def _compose_speech(rng: np.random.Generator, words: ClassWords) -> str:
    """Compose long speech of mostly common words; one video in five has a song instead, one in
    seven has speech about another class.
    """
    length, kind = int(np.clip(rng.lognormal(3.5, 0.7), 6, 600)), rng.random()  # in words
    if kind < SONG_RATE:
        choices = rng.integers(len(SONG_WORDS), size=length // 3 + 1)
        return " ".join(SONG_WORDS[i] for i in choices)
    if kind < SONG_RATE + OFF_TOPIC_RATE:
        words = _random_class(rng)
    return _compose_sentence(rng, words, length, pair_share=0.025, topic_share=0.04)


def _compose_captions(rng: np.random.Generator, words: ClassWords, seconds: int) -> list[dict]:
    """Compose captions that stay for one to four seconds and are recognized each second, sometimes
    with a wrong character.
    """
    entries, time = [], 0
    while time < seconds:
        length = int(rng.integers(2, 5))
        caption = _compose_sentence(rng, words, length, pair_share=0.05, topic_share=0.1)
        duration = int(rng.integers(1, 5))
        is_visible = rng.random() < CAPTION_RATE
        for second in range(time, min(time + duration, seconds)):
            if is_visible and rng.random() < RECOGNIZED_RATE:
                entries.append({"time": second, "text": _misread(rng, caption)})
        time += duration
    return entries


def _misread(rng: np.random.Generator, caption: str) -> str:
    """Replace one character in one of ten captions."""
    if rng.random() >= MISREAD_RATE:
        return caption
    position = int(rng.integers(len(caption)))
    wrong = str(rng.choice(list(MISREAD_CHARACTERS)))
    return caption[:position] + wrong + caption[position + 1 :]


def _compose_sentence(
    rng: np.random.Generator,
    words: ClassWords,
    length: int,
    *,
    pair_share: float,
    topic_share: float,
    wrong_share: float = 0.05,
) -> str:
    """Join `length` words: shares of the class's pair, of its topic and of a random class; the
    others are common words.
    """
    parts = []
    for kind, choice in zip(rng.random(length), rng.random(length), strict=True):
        if kind < pair_share:
            vocabulary = words.pair
        elif kind < pair_share + topic_share:
            vocabulary = words.topic
        elif kind > 1 - wrong_share:
            vocabulary = sum(_random_class(rng), ())
        else:
            vocabulary = COMMON_WORDS
        parts.append(vocabulary[int(choice * len(vocabulary))])

    last = len(parts) - 1
    return "".join(
        part + ("，" if i % WORDS_PER_CLAUSE == WORDS_PER_CLAUSE - 1 and i < last else "")
        for i, part in enumerate(parts)
    )


def _random_class(rng: np.random.Generator) -> ClassWords:
    topic = int(rng.integers(len(TOPICS)))
    return class_words(topic, int(rng.integers(CLASS_CHARACTERS // 2)))
